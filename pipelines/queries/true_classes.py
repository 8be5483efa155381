"""Reads the true class of rows from a file of its own, by uid."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipelines.manifests.formats import format_of
from pipelines.manifests.rows import uid_text
from pipelines.manifests.text.records import DELIMITERS
from pipelines.output.scored_tables import iterate_batches
from pipelines.records import image_uid
from pipelines.storage import reading
from pipelines.storage.compression import decompressed


class TruthError(ValueError):
    """A file of true classes that cannot be read."""


def read_truth(uri: str, column: str) -> dict[str, str]:
    """Returns the class of each uid that has one. The whole of it is held in memory.

    Args:
        uri: a Parquet, JSONL, CSV or TSV file with a `uid` column.
        column: the name of the class's column.

    Raises:
        TruthError: if the format is not known, or a column is absent.
        OSError: as the filesystem reports it.
    """
    kind = format_of(uri)
    if kind == "parquet":
        pairs = _parquet_pairs(uri, column)
    elif kind in ("jsonl", "csv", "tsv"):
        pairs = _text_pairs(uri, kind, column)
    else:
        raise TruthError(f"expected a Parquet, JSONL, CSV or TSV file as `truth`, got {uri!r}")
    given = ((uid, value) for uid, value in pairs if uid is not None and value not in (None, ""))
    return {_text(uid): str(value) for uid, value in given}


def classes_of(truth: Mapping[str, str], batch: pa.RecordBatch) -> list[str | None]:
    """Returns the class of each row, None without one; an image's counts for all its captions.

    Args:
        batch: with `uid` and `caption_index`.
    """
    rows = zip(*(batch.column(name).to_pylist() for name in ("uid", "caption_index")), strict=True)
    return [truth.get(uid) or truth.get(image_uid(uid, index)) for uid, index in rows]


def _text(uid: object) -> str:
    """Returns an id as the tables hold it, which a manifest may have as a number or as bytes."""
    try:
        return uid_text(uid) or ""
    except UnicodeDecodeError:  # of no row
        return ""


def _parquet_pairs(uri: str, column: str) -> Iterator[tuple[object, object]]:
    for batch in iterate_batches(uri, ("uid", column), of_run=False):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def _text_pairs(uri: str, kind: str, column: str) -> Iterator[tuple[object, object]]:
    with reading.open_input(uri) as file:
        lines = io.TextIOWrapper(decompressed(uri, file), encoding="utf-8-sig", newline="")
        rows = (
            (json.loads(line) for line in lines if line.strip())
            if kind == "jsonl"
            else csv.DictReader(lines, delimiter=DELIMITERS[kind])
        )
        try:
            for row in rows:
                yield row["uid"], row[column]
        except KeyError as error:
            raise TruthError(f"{uri} has no column {error}; name another") from error
        except (ValueError, TypeError, csv.Error) as error:
            raise TruthError(f"{uri} cannot be read: {error}") from error
