"""Reads Parquet manifests; a damaged row group costs its own rows and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.raw_rows import Fault, RawRow
from pipelines.records import Unit
from schemas.manifest import Columns
from schemas.rejects import Reason

BATCH_ROWS = 64  # rows may hold whole images


def read_footer(uri: str) -> tuple[pa.Schema, int]:
    """Returns the schema and the number of rows of a file.

    Raises:
        pyarrow.ArrowException: if it is not a Parquet file, or cut short; Arrow also raises OSError
            without an error number for it.
        OSError: as the filesystem reports it.
    """
    with storage.open_input(uri) as file:
        parquet = pq.ParquetFile(file)
        return parquet.schema_arrow, parquet.metadata.num_rows


def read_parquet(unit: Unit) -> Iterator[RawRow]:
    """Yields the rows of a unit, in order, reading only the row groups and columns it needs."""
    if not unit.rows:  # nothing but damage, which the plan has noted
        return
    begin, end = unit.first_row, unit.first_row + unit.rows
    with storage.open_input(unit.uri) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        first = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if first < end and first + rows > begin:
                for raw in _read_group(parquet, group, first, rows, _names(unit.columns)):
                    if begin <= raw.number < end:
                        yield raw
            first += rows


def _read_group(
    parquet: pq.ParquetFile, group: int, first: int, rows: int, names: list[str]
) -> Iterator[RawRow]:
    number = first
    try:
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
            for values in _values(batch):
                yield RawRow(number, values)
                number += 1
    except (pa.ArrowException, OSError) as error:
        fault = Fault(Reason.MANIFEST_UNREADABLE, f"row group {group} is damaged: {error}")
        yield from (RawRow(lost, fault) for lost in range(number, first + rows))


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | Fault]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_row_values(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _row_values(row: pa.RecordBatch) -> dict[str, Any] | Fault:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return Fault(Reason.MALFORMED_ROW, "the row is not valid UTF-8")


def _names(columns: Columns) -> list[str]:
    single = (columns.uid, columns.image_uri, columns.image_bytes, columns.text, columns.sha256)
    return list(dict.fromkeys([name for name in single if name] + list(columns.kept)))
