"""Reads JSONL, CSV and TSV manifests, plain or compressed, in slices that begin at an offset."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa

from pipelines.manifests.request import (
    FilePlan,
    ManifestFormat,
    ManifestRequest,
    columns_of_file,
    unit_id,
)
from pipelines.manifests.rows import Fault, RawRow
from pipelines.manifests.text.records import TextRecords, open_text, too_long
from pipelines.records import Unit
from pipelines.storage.compression import DamagedStream, is_compressed
from pipelines.storage.foreign_json import TooDeepError, read_json
from schemas.common_types import json_column
from schemas.manifest import AUTO, IMAGE_BYTES_NAMES, IMAGE_URI_NAMES, ManifestError
from schemas.rejects import Reason

_NOT_UTF8 = (
    "the row is not valid UTF-8; convert the manifest, for example with "
    "`iconv -f latin1 -t utf-8` if that is what it is"
)
_LOOKED_AT = 5  # records that tell what a file without an ending is
_NAMED_BY = 1000  # records of a JSONL file whose keys count as its columns


@dataclass(frozen=True)
class Slice:
    """Records `first_row` to `first_row + rows` of a file, from byte `offset` of its text."""

    first_row: int
    rows: int
    offset: int


@dataclass(frozen=True)
class TextScan:
    """What one pass over a text manifest found."""

    fields: tuple[pa.Field, ...]
    slices: tuple[Slice, ...]
    damage: str | None


def scan_text(
    uri: str,
    kind: str,
    rows_per_unit: int,
    kept: tuple[str, ...],
    image_encoding: str = AUTO,
) -> TextScan:
    """Counts the records of a file and notes where each slice begins.

    Args:
        kind: `jsonl`, `csv` or `tsv`.
        kept: columns whose types are wanted; JSONL is parsed as a whole for them.
        image_encoding: as of the request.

    Raises:
        ManifestError: if the file is not UTF-8 text, or a CSV file has no header.
    """
    slices: list[Slice] = []
    types = _JsonTypes(kept) if kind == "jsonl" else None
    damage = None
    fields: tuple[pa.Field, ...] = ()
    first, start, count = 0, 0, 0
    with open_text(uri) as file:
        records = TextRecords(file, kind, uri, image_encoding)
        try:
            fields = _header_fields(records, uri, kind)
            start = records.offset
            for record in records:
                if types is not None:
                    types.look_at(record)
                count += 1
                if count - first == rows_per_unit:
                    slices.append(Slice(first, rows_per_unit, start))
                    first, start = count, records.offset
        except DamagedStream as error:
            damage = str(error)
    if count > first:
        slices.append(Slice(first, count - first, start))
    return TextScan(types.fields() if types else fields, tuple(slices), damage)


def holds_json_lines(uri: str) -> bool:
    """Tells whether the first rows of a file are JSON objects, one of which names an image.

    Raises:
        OSError: as the filesystem reports it.
    """
    try:
        with open_text(uri) as file:
            lines = list(islice(TextRecords(file, "jsonl", uri), _LOOKED_AT))
    except (DamagedStream, ManifestError):
        return False
    rows = [row for line in lines if not isinstance(row := _json_values(line, ()), Fault)]
    if len(rows) < len(lines):
        return False
    names = {name.lower() for row in rows for name in row}
    return not names.isdisjoint((*IMAGE_URI_NAMES, *IMAGE_BYTES_NAMES))


def plan_text(whole: Unit, request: ManifestRequest, beside: Collection[str]) -> FilePlan:
    """Cuts a file into units, reading it once from end to end.

    Raises:
        ManifestError: if it is not UTF-8 text, or a column is absent or ambiguous.
    """
    scan = scan_text(
        whole.uri,
        whole.format,
        request.rows_per_unit,
        request.keep_columns,
        request.image_encoding,
    )
    if not scan.fields and not scan.slices:  # nothing in it, or nothing before the damage
        units = [replace(whole, damage=scan.damage)] if scan.damage else []
        return FilePlan(units, [], readable=scan.damage is None)
    columns = columns_of_file(scan.fields, whole.uri, request)
    units = [
        replace(
            whole,
            unit_id=unit_id(whole.uri, index),
            columns=columns,
            first_row=piece.first_row,
            rows=piece.rows,
            offset=piece.offset,
        )
        for index, piece in enumerate(scan.slices)
    ]
    if scan.damage and units:
        units[-1] = replace(units[-1], damage=scan.damage)
    elif scan.damage:
        units = [replace(whole, columns=columns, damage=scan.damage)]
    types = {field.name: field for field in scan.fields}
    return FilePlan(units, [types[name] for name in columns.kept])


def read_text(unit: Unit) -> Iterator[RawRow]:
    """Yields the rows of a unit, in order."""
    if not unit.rows:  # nothing could be read of the file
        return
    yield from _rows(unit, range(unit.first_row, unit.first_row + unit.rows))


def text_rows_at(unit: Unit, numbers: Collection[int]) -> Iterator[RawRow]:
    """Yields rows by their numbers; only the wanted ones are taken apart."""
    if min(numbers) < unit.first_row:  # of another unit of the file
        unit = replace(unit, first_row=0, offset=None)
    yield from _rows(unit, range(unit.first_row, max(numbers) + 1), set(numbers))


def _rows(unit: Unit, numbers: range, wanted: Collection[int] | None = None) -> Iterator[RawRow]:
    with open_text(unit.uri) as file:
        records = TextRecords(file, unit.format, unit.uri, unit.columns.image_encoding)
        names = [field.name for field in _header_fields(records, unit.uri, unit.format)]
        records.skip_to(unit.offset or 0, seekable=not is_compressed(unit.uri))
        for number in numbers:
            record = _next_record(records)
            if wanted is not None and number not in wanted:
                continue
            if isinstance(record, Fault):
                yield RawRow(number, record)
            elif unit.format == "jsonl":
                yield RawRow(number, _json_values(record, unit.columns.kept))
            else:
                yield RawRow(number, _csv_values(record, names))


def _next_record(records: TextRecords) -> Any:
    """Returns the next record, or a fault if the file is not as whole as when it was planned."""
    try:
        return next(records, _SHRUNK)
    except DamagedStream as error:
        return Fault(Reason.MANIFEST_TRUNCATED, str(error))


_SHRUNK = Fault(Reason.MANIFEST_TRUNCATED, "the manifest ends before this row")


def _header_fields(records: TextRecords, uri: str, kind: str) -> tuple[pa.Field, ...]:
    """Reads the header of CSV and TSV; JSONL has none."""
    if kind == "jsonl":
        return ()
    header = next(records, None)
    if header is None:
        raise DamagedStream("expected a header line, got an empty file")
    if isinstance(header, Fault):
        raise ManifestError(f"the header line of {uri} cannot be read: {header.detail}")
    if fault := next(filter(None, map(too_long, header)), None):
        raise ManifestError(f"the header line of {uri} cannot be read: {fault.detail}")
    if any(_has_surrogate(name) for name in header):
        raise ManifestError(f"the header line of {uri}: {_NOT_UTF8}")
    return tuple(pa.field(name.strip(), pa.string()) for name in header)


def _csv_values(record: list[str], names: list[str]) -> dict[str, str | None] | Fault:
    if fault := next(filter(None, map(too_long, record)), None):
        return fault
    if len(record) != len(names):
        return Fault(Reason.MALFORMED_ROW, f"expected {len(names)} fields, got {len(record)}")
    if any(_has_surrogate(value) for value in record):
        return Fault(Reason.MALFORMED_ROW, _NOT_UTF8)
    return {name: value or None for name, value in zip(names, record, strict=True)}


def _json_values(line: str, kept: tuple[str, ...]) -> dict[str, Any] | Fault:
    if fault := too_long(line):
        return fault
    if _has_surrogate(line):
        return Fault(Reason.MALFORMED_ROW, _NOT_UTF8)
    try:
        values = read_json(line)
    except TooDeepError as error:
        return Fault(Reason.MALFORMED_ROW, str(error))
    except ValueError as error:
        return Fault(Reason.MALFORMED_ROW, f"not JSON: {error}")
    if not isinstance(values, dict):
        return Fault(Reason.MALFORMED_ROW, f"expected an object, got {type(values).__name__}")
    for name in kept:
        if isinstance(values.get(name), dict | list):
            values[name] = json.dumps(values[name], ensure_ascii=False)
    return values


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


class _JsonTypes:
    """Finds the columns of a JSONL file, and the types of those that are kept."""

    def __init__(self, kept: tuple[str, ...]) -> None:
        self._kept = kept
        self._seen = 0
        self._types: dict[str, set[pa.DataType]] = {}
        self._inexact: set[str] = set()  # columns with a whole number that float64 does not hold

    def look_at(self, line: str) -> None:
        self._seen += 1
        if self._seen > _NAMED_BY and not self._kept:
            return
        values = _json_values(line, self._kept)
        if isinstance(values, Fault):
            return
        for name, value in values.items():
            if _has_surrogate(name):
                continue
            self._types.setdefault(name, set()).add(_json_type(value))
            if _is_inexact(value):
                self._inexact.add(name)

    def fields(self) -> tuple[pa.Field, ...]:
        return tuple(
            json_column(name, kinds, name in self._inexact) for name, kinds in self._types.items()
        )


def _is_inexact(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < 2**63 and float(value) != value


def _json_type(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(2**63) <= value < 2**63 else pa.string()
    return pa.float64() if isinstance(value, float) else pa.string()


TEXT_FORMATS = tuple(
    ManifestFormat(name, suffixes, plan_text, read_text, text_rows_at, names_images=True)
    for name, suffixes in (
        ("jsonl", (".jsonl", ".ndjson")),
        ("csv", (".csv",)),
        ("tsv", (".tsv",)),
    )
)
