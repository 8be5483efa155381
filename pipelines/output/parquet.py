"""How every table is written as Parquet, zstd, page checksums, no dictionaries for vectors; and how
many rows files have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.per_file import side_by_side
from pipelines.output.run_json import damaged
from pipelines.storage import reading, writing

BATCH_BYTES, LEAST_BATCH_ROWS = 1 << 20, 64
FILES_WRITTEN = 8  # at once, as each holds a row group
ROW_GROUP_BYTES = 64 << 20  # warehouses ask for 16 MiB and more


def parquet_bytes(table: pa.Table, metadata: Mapping[bytes, str]) -> pa.Buffer:
    """Encodes a table as one file in memory."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, **parquet_options(table.schema))
    return sink.getvalue()


def write_parquet(
    uri: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    group_bytes: int = ROW_GROUP_BYTES,
) -> None:
    """Writes a file from batches, which are gathered to row groups; whole or not at all.

    Args:
        schema: with the metadata of the file; the batches are cast to it.
        group_bytes: of a row group, which is held in memory.
    """
    with (
        writing.open_output(uri) as file,
        pq.ParquetWriter(file, schema, **parquet_options(schema)) as writer,
    ):
        group: list[pa.RecordBatch] = []
        size = 0
        for batch in batches:
            group.append(batch.cast(schema))
            size += batch.nbytes
            if size >= group_bytes:
                writer.write_table(pa.Table.from_batches(group))
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_batches(group))


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Returns how tables are written, as `ParquetWriter` takes it.

    Dictionaries and least and largest values of random floats cost time and help nobody.
    """
    plain = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    return {
        "compression": "zstd",
        "use_dictionary": plain,
        "write_statistics": plain,
        "write_page_checksum": True,
    }


def batch_rows(schema: pa.Schema, columns: Iterable[str], most: int) -> int:
    """Returns how many rows are read at once, so that their embeddings take a few megabytes."""
    kinds = [schema.field(name).type for name in columns]
    lists = [kind for kind in kinds if pa.types.is_fixed_size_list(kind)]
    width = sum(kind.list_size * kind.value_type.bit_width // 8 for kind in lists)
    return min(most, max(LEAST_BATCH_ROWS, BATCH_BYTES // width)) if width else most


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Reads a file of one of the two tables, its checksums verified."""
    with reading.open_at_end(uri) as file:
        return pq.read_table(file, columns=columns, page_checksum_verification=True)


class RowCounts:
    """The rows of files, as their footers have it; each is looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, files: Sequence[str]) -> list[int]:
        """Returns the rows of each file.

        Raises:
            ScoredTablesError: if one is damaged.
            OSError: as the filesystem reports it.
        """
        new = [uri for uri in files if uri not in self._known]
        self._known.update(zip(new, side_by_side(_footer_rows, new), strict=True))
        return [self._known[uri] for uri in files]


def _footer_rows(uri: str) -> int:
    try:
        with reading.open_at_end(uri) as file:
            return pq.read_metadata(file).num_rows
    except pa.ArrowException as error:
        raise damaged(uri, error) from error
