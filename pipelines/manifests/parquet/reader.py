"""Reads Parquet manifests; a damaged row group costs its own rows and no others."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from pipelines.images.base64_text import MAX_KEY_CHARS
from pipelines.manifests.parquet.batches import DamagedParquet, ParquetBatches, damage_named
from pipelines.manifests.parquet.limited import check_footer, limited_batches
from pipelines.manifests.parquet.pages import SuspiciousPages
from pipelines.manifests.parquet.types import FinerThanMicroseconds, in_microseconds
from pipelines.manifests.request import (
    FilePlan,
    ManifestFormat,
    ManifestRequest,
    columns_of_file,
    unit_id,
)
from pipelines.manifests.rows import Fault, RawRow
from pipelines.manifests.run_tables import is_output_table, plan_rows_again
from pipelines.records import Unit
from pipelines.storage import reading
from schemas.manifest import DOWNLOADED, Columns, ManifestError, plain_type
from schemas.rejects import Reason

# What Arrow makes of a footer may take 500 times its bytes: one that is larger is tried first in a
# process with a limit.
MAX_FOOTER_BYTES = 1 << 20
# A row of equal values takes nearly no bytes; but no file has that many for each of its bytes.
MAX_ROWS_PER_BYTE = 1000
# Of images in a row group; to begin in the middle of it, all that precedes has to be unfolded.
LARGE_GROUP_BYTES = 64 << 20
_TAIL_BYTES = 8  # length of the footer, and a magic number
_LARGE_BATCH_BYTES = 16 << 20  # whose rows become objects of Python one at a time


class Footer(NamedTuple):
    """What a footer says: the columns, the number of rows, and that of each row group.

    `column_bytes` returns what a column of each row group unfolds to.
    """

    schema: pa.Schema
    rows: int
    group_rows: tuple[int, ...]
    column_bytes: Callable[[str], list[int]]


def read_footer(uri: str) -> Footer:
    """Returns what the footer of a file says.

    Raises:
        DamagedParquet: if it is not a Parquet file, cut short, or at odds with itself.
        OSError: as the filesystem reports it.
    """
    with reading.open_at_end(uri) as file, damage_named():
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - _TAIL_BYTES, 0))
        if int.from_bytes(file.read(_TAIL_BYTES)[:4], "little") > MAX_FOOTER_BYTES:
            check_footer(uri, file)
        parquet = ParquetBatches(file)
        rows, groups = parquet.rows, tuple(parquet.group_rows)
        if sum(groups) != rows or min(groups, default=0) < 0:
            raise DamagedParquet(f"{rows} rows, of which row groups have {sum(groups)}")
        if rows > MAX_ROWS_PER_BYTE * size:
            raise DamagedParquet(f"it cannot have {rows} rows in {size} bytes")
        return Footer(parquet.schema, rows, groups, parquet.column_bytes)


def plan_parquet(whole: Unit, request: ManifestRequest, beside: Collection[str]) -> FilePlan:
    """Cuts a file into units, by its footer alone.

    Raises:
        ManifestError: if a column is absent or ambiguous, or it is a table of a run that cannot be
            read again.
    """
    try:
        footer = read_footer(whole.uri)
    except DamagedParquet as error:
        damage = f"not a whole Parquet file: {error}"
        return FilePlan([replace(whole, damage=damage)], [], readable=False)
    schema = footer.schema
    if is_output_table(schema):
        return plan_rows_again(whole.uri, schema, request)
    columns = columns_of_file(schema, whole.uri, request)
    if "webdataset" in beside and columns.status:
        # img2dataset's output: the other rows are in the tar, where all that is kept is text.
        kept = [pa.field(name, pa.string()) for name in columns.kept]
        unit = replace(whole, columns=columns, format="img2dataset", rows=None)
        return FilePlan([unit], kept)
    large = _large_groups(footer, columns)
    units = [
        replace(
            whole,
            unit_id=unit_id(whole.uri, index),
            columns=columns,
            first_row=piece.start,
            rows=len(piece),
            together=group if group in large else None,
        )
        for index, (group, piece) in enumerate(_pieces(footer.group_rows, request.rows_per_unit))
    ]
    kept = [pa.field(name, plain_type(schema.field(name).type)) for name in columns.kept]
    if not columns.keep_nanoseconds:
        kept = [_in_microseconds(field, whole.uri) for field in kept]
    return FilePlan(units, kept)


def _in_microseconds(field: pa.Field, uri: str) -> pa.Field:
    """Returns a kept column whose timestamps are microseconds, which every engine reads.

    Raises:
        ManifestError: if one of them is finer.
    """
    kind = in_microseconds(field.type)
    if kind == field.type:
        return field
    if _is_finer(uri, field.name):
        raise ManifestError(
            f"{uri}: column {field.name!r} has nanoseconds, which Spark cannot read; pass "
            "`keep_nanoseconds`, or leave it out of `keep_columns`"
        )
    return field.with_type(kind)


def _is_finer(uri: str, name: str) -> bool:
    """Reads a column for timestamps that are no whole microseconds."""
    with suppress(DamagedParquet), reading.open_at_end(uri) as file, damage_named():
        parquet = ParquetBatches(file)
        for group, rows in enumerate(parquet.group_rows):
            with suppress(SuspiciousPages):  # a page that unfolds to too much
                try:
                    for _ in parquet.read(group, range(rows), [name], in_us=[name]):
                        pass
                except FinerThanMicroseconds:
                    return True
    return False


def _large_groups(footer: Footer, columns: Columns) -> set[int]:
    """Returns the row groups with images of many bytes; no paths take as much a row."""
    image = columns.image_bytes or str(columns.image_uri)
    sizes = zip(footer.column_bytes(image), footer.group_rows, strict=True)
    return {
        group
        for group, (size, rows) in enumerate(sizes)
        if size > LARGE_GROUP_BYTES and (columns.image_bytes or size > MAX_KEY_CHARS * rows)
    }


def _pieces(group_rows: Iterable[int], step: int) -> Iterator[tuple[int, range]]:
    """Yields the row group and the rows of each unit, none of which crosses the end of a group: a
    reader would have to begin two."""
    first = 0
    for group, rows in enumerate(group_rows):
        for start in range(first, first + rows, step):
            yield group, range(start, min(start + step, first + rows))
        first += rows


def read_parquet(unit: Unit) -> Iterator[RawRow]:
    """Yields the rows of a unit, in order, reading only the row groups and columns it needs."""
    if not unit.rows:  # nothing but damage, which the plan has noted
        return
    number, end = unit.first_row, unit.first_row + unit.rows
    damage = "the file ends before this row"
    with reading.open_at_end(unit.uri) as file:
        try:
            for raw in _rows(file, unit, range(number, end)):
                yield raw
                number = raw.number + 1
        except DamagedParquet as error:  # it was whole when it was planned
            damage = f"not a whole Parquet file: {error}"
    fault = Fault(Reason.MANIFEST_UNREADABLE, damage)
    yield from (RawRow(lost, fault) for lost in range(number, end))


def read_ledger(unit: Unit) -> Iterator[RawRow]:
    """Yields the rows of img2dataset's Parquet file that are not in the tar beside it."""
    rows = read_footer(unit.uri).rows
    for raw in read_parquet(replace(unit, rows=rows)):
        values = raw.values
        if isinstance(values, Fault) or values[str(unit.columns.status)] != DOWNLOADED:
            yield raw


def parquet_rows_at(unit: Unit, numbers: Collection[int]) -> Iterator[RawRow]:
    """Yields rows by their numbers, each from its own row group."""
    for number in numbers:
        yield from read_parquet(replace(unit, first_row=number, rows=1))


def _rows(file: BinaryIO, unit: Unit, wanted: range) -> Iterator[RawRow]:
    with damage_named():
        parquet = ParquetBatches(file)
        group_rows = parquet.group_rows
    first = 0
    for group, rows in enumerate(group_rows):
        inside = range(max(wanted.start - first, 0), min(wanted.stop - first, rows))
        if inside:
            group_values = _read_group(file, unit, parquet, group, inside)
            for number, values in zip(inside, group_values, strict=True):
                yield RawRow(first + number, values)
        first += rows


def _read_group(
    file: BinaryIO, unit: Unit, parquet: ParquetBatches, group: int, wanted: range
) -> Iterator[dict[str, Any] | Fault]:
    """Yields the wanted rows of a row group, or a fault for each that cannot be read."""
    done, damage = 0, "it ends early"
    try:
        with damage_named():
            for batch in _batches(file, unit, parquet, group, wanted):
                for values in _values(batch):
                    yield values
                    done += 1
    except (DamagedParquet, FinerThanMicroseconds) as error:
        damage = str(error)
    fault = Fault(Reason.MANIFEST_UNREADABLE, f"row group {group} is damaged: {damage}")
    yield from (fault for _ in wanted[done:])


def _batches(
    file: BinaryIO, unit: Unit, parquet: ParquetBatches, group: int, wanted: range
) -> Iterator[pa.RecordBatch]:
    names, columns = _names(unit.columns), unit.columns
    whole = [name for name in (columns.image_bytes, columns.image_uri) if name is not None]
    in_us = () if columns.keep_nanoseconds else columns.kept
    try:
        for batch in parquet.read(group, wanted, names, whole, in_us):
            wanted = wanted[batch.num_rows :]
            yield batch
    except SuspiciousPages:
        yield from limited_batches(unit.uri, file, group, wanted, names, whole, in_us)


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | Fault]:
    if batch.nbytes <= _LARGE_BATCH_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except (ValueError, OverflowError):  # of one of the rows
            pass
    yield from (_row_values(batch.slice(index, 1)) for index in range(batch.num_rows))


def _row_values(row: pa.RecordBatch) -> dict[str, Any] | Fault:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return Fault(Reason.MALFORMED_ROW, "the row is not valid UTF-8")
    except (ValueError, OverflowError) as error:  # a date or time that Python does not have
        return Fault(Reason.MALFORMED_ROW, f"a value of the row cannot be read: {error}")


def _names(columns: Columns) -> list[str]:
    single = (
        columns.uid,
        columns.image_uri,
        columns.image_bytes,
        columns.text,
        columns.sha256,
        columns.status,
        columns.error,
    )
    return list(dict.fromkeys([name for name in single if name] + list(columns.kept)))


PARQUET = ManifestFormat(
    "parquet",
    (".parquet",),
    plan_parquet,
    read_parquet,
    parquet_rows_at,
    damage=Reason.MANIFEST_UNREADABLE,
)
# img2dataset's file beside a tar, as `plan_parquet` recognises it.
LEDGER = ManifestFormat("img2dataset", (), plan_parquet, read_ledger)
