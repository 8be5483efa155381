"""Reads what `embed` wrote: its tables file by file and batch by batch, never as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.output.arrow_rows import plain_values
from pipelines.output.layout import EMBEDDINGS, FINGERPRINT_KEY, REJECTS, RUN_JSON
from pipelines.output.parquet import RowCounts
from pipelines.output.parquet import batch_rows as rows_at_once
from pipelines.output.run_json import ScoredTablesError, damaged, read_record
from pipelines.storage import listing, reading, uris
from schemas.embeddings import KEY_NAMES, MODEL_COLUMNS, model_column, model_names, pairs_of
from schemas.pairs import BOTH, has_column

KEY_COLUMNS = ("uid", *KEY_NAMES)  # that every row has
ROW_COLUMNS = (*KEY_COLUMNS, "url", "text", "sha256")
BATCH_ROWS = 8192
BUFFER_BYTES = 1 << 20  # read at once of a column; else it would be a whole row group's
# What decides whether two embeddings can be compared; precision only adds noise.
COMPARED = ("checkpoint_sha256", "architecture", "activation", "tokenizer", "preprocessing")


@dataclass(frozen=True)
class ScoredTables:
    """The output directory of `embed`.

    Attributes:
        root: the directory's URI.
        embeddings: URIs of the files of the embeddings table, sorted.
        rejects: URIs of the files of the rejects table, sorted.
        schema: of the embeddings table.
        fingerprint: what decided the values, from the metadata of the first file.
        record: what run.json says; empty while a run has not finished.
        model_name: the model whose columns are read; None where the run has one, without a name.
    """

    root: str
    embeddings: tuple[str, ...]
    rejects: tuple[str, ...]
    schema: pa.Schema
    fingerprint: Mapping[str, Any]
    record: Mapping[str, Any]
    model_name: str | None = None
    row_counts: RowCounts = field(default_factory=RowCounts, compare=False, repr=False)

    @property
    def counts(self) -> Mapping[str, Any]:
        """Rows as run.json counts them, by name."""
        counts: Mapping[str, Any] = self.record.get("counts", {})
        return counts

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the run, by flag; of several models the one that was chosen."""
        options = self.record.get("options", {})
        if isinstance(options.get("model"), dict) and self.model_name is not None:
            return {**options, "model": options["model"].get(self.model_name)}
        return options

    @property
    def model_fingerprint(self) -> Mapping[str, Any]:
        """The part of the fingerprint about the chosen model, without its name."""
        prefix = "" if self.model_name is None else f"{self.model_name}."
        found = self.fingerprint.items()
        return {key.removeprefix(prefix): v for key, v in found if key.startswith(prefix)}

    def rows_of(self, files: Sequence[str]) -> int:
        """Returns the rows of some files of the run; each is looked at once.

        Raises:
            ScoredTablesError, OSError: as `RowCounts.of`.
        """
        return sum(self.row_counts.of(files))

    def of_model(self, name: str | None) -> ScoredTables:
        """Chooses the model whose columns are read.

        Raises:
            ScoredTablesError: as `choose_model`.
        """
        return replace(self, model_name=choose_model(self.schema, name))

    def batches(
        self, uri: str, columns: Sequence[str], batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Does what `iterate_batches` does; the chosen model's columns have no name in front.

        Raises:
            ScoredTablesError, OSError: as `iterate_batches`.
        """
        stored = [self.column(name) for name in columns]
        for batch in iterate_batches(uri, stored, batch_rows):
            yield batch.rename_columns(list(columns))

    @property
    def pairs(self) -> str:
        """Which halves of pairs the run has, one of `schemas.pairs.PAIRS`."""
        return pairs_of(self.schema)

    def had(self, columns: Sequence[str]) -> list[str]:
        """Returns those of some columns that a run of its halves has."""
        return _had(self.schema, columns)

    def column(self, name: str) -> str:
        """Returns the name that a column has in the files."""
        return model_column(name, self.model_name) if name in MODEL_COLUMNS else name


def open_tables(root: str, *, bare: bool = False) -> ScoredTables:
    """Finds the tables under an output directory of `embed`; reads one footer and run.json.

    Args:
        bare: whether a folder of files like those of the embeddings table will do.

    Raises:
        ScoredTablesError: if there is no table, or it was not written by `embed`.
        OSError: as the filesystem reports it.
    """
    root = uris.normalize(root)
    embeddings = _parquet_files(uris.join(root, EMBEDDINGS))
    if is_bare := bare and not embeddings:
        embeddings = _parquet_files(root)
    record = read_record(uris.join(root, RUN_JSON))
    if not embeddings and record and not record.get("counts", {}).get("rows_read"):
        raise ScoredTablesError(f"the run in {root!r} has no rows, so there is nothing to read")
    if not embeddings:
        raise ScoredTablesError(
            f"expected the output directory of `clip-beam embed`, got {root!r}, which has no "
            f"{EMBEDDINGS}/*.parquet; name another with `input`"
        )
    schema = file_schema(embeddings[0])
    metadata = schema.metadata or {}
    if is_bare:
        check_columns(schema, _had(schema, ROW_COLUMNS), embeddings[0])
    elif FINGERPRINT_KEY not in metadata:
        raise ScoredTablesError(f"{embeddings[0]} was not written by `clip-beam embed`")
    return ScoredTables(
        root=root,
        embeddings=embeddings,
        rejects=_parquet_files(uris.join(root, REJECTS)),
        schema=schema.remove_metadata(),
        fingerprint=_fingerprint(embeddings[0], metadata.get(FINGERPRINT_KEY, b"{}")),
        record=record,
    )


def _had(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    pairs = pairs_of(schema)
    return [name for name in columns if has_column(pairs, name)]


def choose_model(schema: pa.Schema, model_name: str | None) -> str | None:
    """Returns the name of the model to read, None for a run of one model without a name.

    Raises:
        ScoredTablesError: if the choice is open, or there is no such model.
    """
    names = model_names(schema)
    if model_name is None and len(names) < 2:
        return names[0] if names else None
    if model_name is None:
        there = ", ".join(names)
        raise ScoredTablesError(f"expected `model_name`, as the run has models {there}")
    if model_name not in names:
        there = f"the run has models {', '.join(names)}" if names else "the run has one, unnamed"
        raise ScoredTablesError(
            f"`model_name` names {model_name!r}, {there}; "
            + ("name one of these" if names else "leave it out")
        )
    return model_name


def file_schema(uri: str) -> pa.Schema:
    """Returns the schema of one file, with its metadata.

    Raises:
        ScoredTablesError: if it is damaged.
    """
    try:
        with reading.open_at_end(uri) as file:
            return pq.read_schema(file)
    except pa.ArrowException as error:
        raise damaged(uri, error) from error


def iterate_batches(
    uri: str, columns: Sequence[str], batch_rows: int = BATCH_ROWS, *, of_run: bool = True
) -> Iterator[pa.RecordBatch]:
    """Yields the record batches of one file, in order, with the given columns alone.

    Args:
        of_run: whether the file is of a run, whose rows are named by columns of known types.

    Raises:
        ScoredTablesError: if a column is not there, or the file is damaged.
        OSError: as the filesystem reports it.
    """
    try:
        with reading.open_at_end(uri) as file:
            parquet = pq.ParquetFile(
                file, page_checksum_verification=True, buffer_size=BUFFER_BYTES
            )
            check_columns(parquet.schema_arrow, columns, uri)
            if of_run:
                _check_types(parquet.schema_arrow, columns, uri)
            rows = rows_at_once(parquet.schema_arrow, columns, batch_rows)
            # Threads gain little, as vectors are most of a table, and each keeps its own buffers.
            for batch in parquet.iter_batches(rows, columns=list(columns), use_threads=False):
                if of_run:
                    _check_keys(batch, uri)
                yield batch.select(list(columns))
    except pa.ArrowException as error:
        raise damaged(uri, error) from error
    except OSError as error:  # Arrow's own have no number; those of filesystems have, or a class
        if type(error) is not OSError or error.errno is not None:
            raise
        raise damaged(uri, error) from error


def check_columns(schema: pa.Schema, columns: Sequence[str], uri: str) -> None:
    """Makes sure that a table has columns.

    Raises:
        ScoredTablesError: names the first one that is absent, and those that are there.
    """
    absent = [name for name in columns if name not in schema.names]
    if not absent:
        return
    remedy = remedy_of(schema, absent[0]) or f"it has {', '.join(schema.names)}"
    raise ScoredTablesError(f"{uri} has no column {absent[0]!r}; {remedy}")


def remedy_of(schema: pa.Schema, column: str) -> str | None:
    """Returns how a run gets a column that all runs may have; None of others."""
    pairs = pairs_of(schema)
    if pairs != BOTH and (column.endswith(MODEL_COLUMNS) or not has_column(pairs, column)):
        return f"the run has {pairs} alone; embed again with both as `pairs`"
    if column.endswith(MODEL_COLUMNS[2:]):
        return "embed again without `scores_only`"
    return None


def _check_types(schema: pa.Schema, columns: Sequence[str], uri: str) -> None:
    """Makes sure that what names rows and images is text: others may have written the file."""
    for name in set(columns) & set(ROW_COLUMNS):
        kind = schema.field(name).type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (pa.types.is_integer(kind) if name in KEY_NAMES[1:] else is_text):
            raise damaged(uri, ValueError(f"its column {name!r} is of type {kind}"))


def _check_keys(batch: pa.RecordBatch, uri: str) -> None:
    for name in set(batch.schema.names) & set(KEY_COLUMNS):
        if batch.column(name).null_count:
            raise damaged(uri, ValueError(f"a row lacks {name!r}"))


def embedding_matrix(column: pa.Array) -> np.ndarray:
    """Returns [rows, dim] float32 of an embedding column."""
    flat = plain_values(column.flatten())
    return flat.reshape(len(column), column.type.list_size).astype("float32", copy=False)


def _parquet_files(directory: str) -> tuple[str, ...]:
    files = (uri for uri in listing.list_files(directory) if uri.endswith(".parquet"))
    return tuple(uri for uri in files if not uris.base_name(uri).startswith((".", "_")))


def _fingerprint(uri: str, text: bytes) -> Mapping[str, Any]:
    try:
        return dict(json.loads(text).items())
    except (ValueError, RecursionError, AttributeError) as error:
        raise damaged(uri, error) from error
