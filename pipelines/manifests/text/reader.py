"""Reads text manifests, plain or compressed, in slices that begin at an offset.

These are JSON lines, one JSON array, CSV and TSV.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from pipelines.manifests.request import (
    FilePlan,
    ManifestFormat,
    ManifestRequest,
    columns_of_file,
    unit_id,
)
from pipelines.manifests.rows import Fault, RawRow
from pipelines.manifests.text.arrays import ArrayRecords
from pipelines.manifests.text.delimiters import check_names, hint
from pipelines.manifests.text.records import TextRecords, most_of_record, open_text, too_long
from pipelines.manifests.text.values import (
    NOT_UTF8,
    JsonTypes,
    csv_values,
    has_surrogate,
    json_values,
)
from pipelines.records import Unit
from pipelines.storage.compression import DamagedStream, is_compressed
from schemas.manifest import IMAGE_BYTES_NAMES, IMAGE_URI_NAMES, Dialect, ManifestError
from schemas.rejects import Reason

JSON_KINDS = ("jsonl", "json")
_LOOKED_AT = 5  # records that tell what a file without an ending is
_IMAGE_NAMES = (*IMAGE_URI_NAMES, *IMAGE_BYTES_NAMES)


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


def open_records(
    file: BinaryIO, kind: str, uri: str, dialect: Dialect
) -> TextRecords | ArrayRecords:
    """Returns the records of a file, header included."""
    if kind == "json":
        return ArrayRecords(file, uri, most_of_record(dialect))
    return TextRecords(file, kind, uri, dialect)


def scan_text(
    uri: str, kind: str, rows_per_unit: int, kept: tuple[str, ...], dialect: Dialect
) -> TextScan:
    """Counts the records of a file and notes where each slice begins.

    Args:
        kind: `jsonl`, `json`, `csv` or `tsv`.
        kept: columns whose types are wanted; JSON is parsed as a whole for them.

    Raises:
        ManifestError: if the file is not UTF-8 text, or a CSV file has no header.
    """
    slices: list[Slice] = []
    types = JsonTypes(kept) if kind in JSON_KINDS else None
    damage = None
    fields: tuple[pa.Field, ...] = ()
    first, start, count = 0, 0, 0
    with open_text(uri) as file:
        records = open_records(file, kind, uri, dialect)
        try:
            fields = _header_fields(records, uri, kind, dialect)
            start = records.offset
            for record in records:
                if types is not None:
                    types.look_at(record)
                elif count == 0 and dialect.column_names:
                    check_names(record, dialect.column_names, uri)
                count += 1
                if count - first == rows_per_unit:
                    slices.append(Slice(first, rows_per_unit, start))
                    first, start = count, records.offset
        except DamagedStream as error:
            damage = str(error)
    if count > first:
        slices.append(Slice(first, count - first, start))
    return TextScan(types.fields() if types else fields, tuple(slices), damage)


def json_kind(uri: str) -> str | None:
    """Returns `jsonl` or `json` if the first rows of a file are JSON objects, one of which names an
    image; else None.

    Raises:
        OSError: as the filesystem reports it.
    """
    for kind in JSON_KINDS:
        try:
            with open_text(uri) as file:
                lines = list(islice(open_records(file, kind, uri, Dialect()), _LOOKED_AT))
        except (DamagedStream, ManifestError):
            continue
        rows = [row for line in lines if not isinstance(row := json_values(line, ()), Fault)]
        names = {name.lower() for row in rows for name in row}
        if len(rows) == len(lines) and not names.isdisjoint(_IMAGE_NAMES):
            return kind
    return None


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
        request.columns,
    )
    if not scan.fields and not scan.slices:  # nothing in it, or nothing before the damage
        units = [replace(whole, damage=scan.damage)] if scan.damage else []
        return FilePlan(units, [], readable=scan.damage is None)
    try:
        columns = columns_of_file(scan.fields, whole.uri, request)
    except ManifestError as error:
        raise ManifestError(f"{error}{hint(scan.fields, whole.format, request)}") from None
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
        records = open_records(file, unit.format, unit.uri, unit.columns)
        header = _header_fields(records, unit.uri, unit.format, unit.columns)
        names = [field.name for field in header]
        columns = unit.columns
        lists = (columns.image_uri, columns.image_bytes, columns.text)  # which these may be
        as_text = tuple(name for name in columns.kept if name not in lists)
        records.skip_to(unit.offset or 0, seekable=not is_compressed(unit.uri))
        for number in numbers:
            record = _next_record(records)
            if wanted is not None and number not in wanted:
                continue
            if isinstance(record, Fault):
                yield RawRow(number, record)
            elif unit.format in JSON_KINDS:
                yield RawRow(number, json_values(record, as_text))
            else:
                yield RawRow(number, csv_values(record, names))


def _next_record(records: TextRecords | ArrayRecords) -> Any:
    """Returns the next record, or a fault if the file is not as whole as when it was planned."""
    try:
        return next(records, _SHRUNK)
    except DamagedStream as error:
        return Fault(Reason.MANIFEST_TRUNCATED, str(error))


_SHRUNK = Fault(Reason.MANIFEST_TRUNCATED, "the manifest ends before this row")


def _header_fields(
    records: TextRecords | ArrayRecords, uri: str, kind: str, dialect: Dialect
) -> tuple[pa.Field, ...]:
    """Reads the header of CSV and TSV, unless the user has named the columns; JSON has none."""
    if kind in JSON_KINDS:
        return ()
    if dialect.column_names:
        return tuple(pa.field(name, pa.string()) for name in dialect.column_names)
    header = next(records, None)
    if header is None:
        raise DamagedStream("expected a header line, got an empty file")
    if isinstance(header, Fault):
        raise ManifestError(f"the header line of {uri} cannot be read: {header.detail}")
    if fault := next(filter(None, map(too_long, header)), None):
        raise ManifestError(f"the header line of {uri} cannot be read: {fault.detail}")
    if any(has_surrogate(name) for name in header):
        raise ManifestError(f"the header line of {uri}: {NOT_UTF8}")
    return tuple(pa.field(name.strip(), pa.string()) for name in header)


TEXT_FORMATS = tuple(
    ManifestFormat(
        name, suffixes, plan_text, read_text, text_rows_at, is_scanned=True, names_images=True
    )
    for name, suffixes in (
        ("jsonl", (".jsonl", ".ndjson")),
        ("json", ()),  # told by its content: most files in .json are something else
        ("csv", (".csv",)),
        ("tsv", (".tsv",)),
    )
)
