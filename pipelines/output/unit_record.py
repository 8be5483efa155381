"""What a file of a run says of its unit: what it was cut from, who wrote it, and what came of it.

What is known before the first row stands in the schema's metadata, the counts in the file's footer.
Keys that this release does not know are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.output.layout import FINGERPRINT_KEY, RESULT_KEY, VERSIONS_KEY
from pipelines.records import Unit, UnitResult
from pipelines.storage import reading
from pipelines.storage.redaction import redact
from schemas.manifest import Columns

UNIT_KEY = b"clip_beam.source_unit"
VERSION = 1
# The packages whose release can change a value in the tables.
VERSIONED = ("clip-beam", "apache-beam", "ftfy", "numpy", "pillow", "pyarrow", "regex", "torch")


class NotARecordError(ValueError):
    """A file that this program did not write."""


class Author(NamedTuple):
    """Who wrote a file.

    Attributes:
        output: id of the output, which lasts until it is overwritten; "" from earlier releases.
        run: id of the run.
        attempt: id of the attempt; equal in both files that one attempt wrote.
    """

    output: str = ""
    run: str = ""
    attempt: str = ""


_NOBODY = Author()


@dataclass(frozen=True)
class UnitRecord:
    """A unit as one of its files describes it.

    Attributes:
        by: who wrote the file.
        kept: types of the columns that were copied from the manifest.
    """

    unit: Unit
    result: UnitResult
    fingerprint: Mapping[str, Any]
    by: Author = _NOBODY
    kept: Mapping[str, pa.DataType] = field(default_factory=dict)


def unit_to_json(unit: Unit, by: Author = _NOBODY) -> str:
    """Writes down a unit without credentials; which of its rows are read again is no part of it."""
    uri, image_root = redact(unit.uri), redact(unit.image_root)
    values = asdict(replace(unit, only=None, uri=uri, image_root=image_root))
    return json.dumps({"version": VERSION} | by._asdict() | values, sort_keys=True)


def unit_from_json(text: str | bytes) -> Unit:
    """Reads what `unit_to_json` wrote.

    Raises:
        ValueError, TypeError, KeyError: if it is something else.
    """
    values: dict[str, Any] = json.loads(text)
    columns: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in _known(Columns, values["columns"]).items()
    }
    between = values.get("between")
    about = {"columns": Columns(**columns), "only": None, "between": between and tuple(between)}
    return Unit(**{**_known(Unit, values), **about})


def metadata_of(
    unit: Unit, fingerprint: Mapping[str, Any], versions: Mapping[str, str], by: Author
) -> dict[bytes, str]:
    """Returns what is known of a unit before its first row, for the schema of its files."""
    return {
        FINGERPRINT_KEY: json.dumps(dict(fingerprint), sort_keys=True),
        UNIT_KEY: unit_to_json(unit, by),
        VERSIONS_KEY: json.dumps(dict(versions)),
    }


def result_metadata(result: UnitResult) -> dict[bytes, str]:
    """Returns the counts of a unit, for the footers of its files."""
    return {RESULT_KEY: json.dumps(asdict(result))}


def read_record(uri: str) -> UnitRecord:
    """Reads the footer of a file of one of the two tables.

    Raises:
        NotARecordError: if `embed` did not write it.
    """
    try:
        with reading.open_at_end(uri) as file:
            footer = pq.read_metadata(file)
        metadata = footer.metadata or {}
        about, unit = json.loads(metadata[UNIT_KEY]), unit_from_json(metadata[UNIT_KEY])
        types = footer.schema.to_arrow_schema() if unit.columns.kept else None
        return UnitRecord(
            unit=unit,
            result=UnitResult(**_known(UnitResult, json.loads(metadata[RESULT_KEY]))),
            fingerprint=json.loads(metadata[FINGERPRINT_KEY]),
            by=Author(*(str(about.get(name, "")) for name in Author._fields)),
            kept={name: types.field(name).type for name in unit.columns.kept} if types else {},
        )
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotARecordError(f"{uri} was not written by `embed`") from error


def find_record(uri: str) -> UnitRecord | None:
    """Reads a footer as `read_record` does; None if there is no such file."""
    try:
        return read_record(uri)
    except FileNotFoundError:
        return None


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = set(_names(kind))
    return {name: value for name, value in values.items() if name in names}


def _names(kind: Any) -> Iterator[str]:
    return (field.name for field in fields(kind))


def is_whole(embeddings: UnitRecord, rejects: UnitRecord | None) -> bool:
    """Tells whether both files of a unit were written by one attempt."""
    if rejects is None:
        return not embeddings.result.rejects
    one, other = ((record.result, record.by) for record in (embeddings, rejects))
    return bool(embeddings.result.rejects) and one == other


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Returns the releases installed here of the packages that can change a value."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree
            found[name] = "unknown"
    return found
