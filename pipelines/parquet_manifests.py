"""Reads Parquet manifests; a damaged row group costs its own rows and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.raw_rows import Fault, RawRow
from pipelines.records import Unit
from schemas.manifest import DOWNLOADED, Columns, mapped_type
from schemas.rejects import Reason

BATCH_ROWS = 64  # rows may hold whole images
BUFFER_BYTES = 8 << 20  # read at once of a column; else it would be a whole row group's


class DamagedParquet(ValueError):
    """A Parquet file, or a part of one, that cannot be read; says why in one line."""

    def __init__(self, reason: object) -> None:
        super().__init__(" ".join(str(reason).split()))


def read_footer(uri: str) -> tuple[pa.Schema, int]:
    """Returns the schema and the number of rows of a file.

    Raises:
        DamagedParquet: if it is not a Parquet file, cut short, or at odds with itself.
        OSError: as the filesystem reports it.
    """
    with storage.open_input(uri) as file, _damage_named():
        parquet = pq.ParquetFile(file)
        metadata = parquet.metadata
        in_groups = sum(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
        if in_groups != metadata.num_rows:
            raise DamagedParquet(f"{metadata.num_rows} rows, of which row groups have {in_groups}")
        return parquet.schema_arrow, metadata.num_rows


def read_parquet(unit: Unit) -> Iterator[RawRow]:
    """Yields the rows of a unit, in order, reading only the row groups and columns it needs."""
    if not unit.rows:  # nothing but damage, which the plan has noted
        return
    begin, end = unit.first_row, unit.first_row + unit.rows
    with storage.open_input(unit.uri) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, buffer_size=BUFFER_BYTES)
        first = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if first < end and first + rows > begin:
                wanted = range(max(begin - first, 0), min(end - first, rows))
                group_rows = _read_group(parquet, group, wanted, _names(unit.columns))
                for number, values in zip(wanted, group_rows, strict=True):
                    yield RawRow(first + number, values)
            first += rows


def read_ledger(unit: Unit) -> Iterator[RawRow]:
    """Yields the rows of img2dataset's Parquet file that are not in the tar beside it."""
    rows = read_footer(unit.uri)[1]
    for raw in read_parquet(replace(unit, rows=rows)):
        values = raw.values
        if isinstance(values, Fault) or values[str(unit.columns.status)] != DOWNLOADED:
            yield raw


def _read_group(
    parquet: pq.ParquetFile, group: int, wanted: range, names: list[str]
) -> Iterator[dict[str, Any] | Fault]:
    """Yields the wanted rows of a row group, or a fault for each that cannot be read."""
    number, reached = wanted.start, 0
    damage = "it ends early"
    try:
        with _damage_named():
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                if reached + batch.num_rows > number:
                    piece = batch.slice(number - reached, wanted.stop - number)
                    yield from _values(piece)
                    number += piece.num_rows
                    if number == wanted.stop:
                        return
                reached += batch.num_rows
    except DamagedParquet as error:
        damage = str(error)
    fault = Fault(Reason.MANIFEST_UNREADABLE, f"row group {group} is damaged: {damage}")
    yield from (fault for _ in range(number, wanted.stop))


@contextmanager
def _damage_named() -> Iterator[None]:
    """Tells damage from a store that cannot be reached for now, which the runner tries again."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DamagedParquet(error) from error
    except OSError as error:  # Arrow's own have no number; those of filesystems have, or a class
        if type(error) is not OSError or error.errno is not None:
            raise
        raise DamagedParquet(error) from error


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | Fault]:
    fields = [(field.name, mapped_type(field.type, _portable)) for field in batch.schema]
    batch = batch.cast(pa.schema(fields))
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):
        return [_row_values(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _portable(kind: pa.DataType) -> pa.DataType:
    """Returns the type in which values travel: nanoseconds as numbers.

    Python's own times end at microseconds; Arrow would need pandas, or drop the rest. It takes the
    numbers back for what they were.
    """
    is_in_ns = pa.types.is_temporal(kind) and getattr(kind, "unit", None) == "ns"
    return pa.int64() if is_in_ns else kind


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
