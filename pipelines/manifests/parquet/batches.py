"""Reads the rows of a Parquet file in batches that fit in memory, whatever its footer says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.images.base64_text import MAX_BASE64_CHARS, may_be_long
from pipelines.manifests.parquet.pages import TooManyRows, WatchedFile
from pipelines.manifests.parquet.types import (
    FinerThanMicroseconds,
    has_fixed_lists,
    plain_metadata,
    travelling,
)
from pipelines.manifests.rows import MAX_TEXT_BYTES

BUFFER_BYTES = 8 << 20  # read at once of a column; else it would be a whole row group's
MAX_BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20


class DamagedParquet(ValueError):
    """A Parquet file, or a part of one, that cannot be read; says why in one line."""

    def __init__(self, reason: object) -> None:
        super().__init__(" ".join(str(reason).split()))


@contextmanager
def damage_named() -> Iterator[None]:
    """Tells damage from want of memory, and from a store that cannot be reached for now, which the
    runner tries again.

    Raises:
        DamagedParquet: for whatever else Arrow raises.
        MemoryError: for want of memory.
    """
    try:
        yield
    except (DamagedParquet, FinerThanMicroseconds, MemoryError):
        raise
    except OSError as error:  # Arrow's own have no number; those of filesystems have, or a class
        if type(error) is not OSError or error.errno is not None:
            raise
        raise _named(error) from error
    except Exception as error:
        raise _named(error) from error


def _named(error: Exception) -> Exception:
    is_memory = "bad_alloc" in str(error)  # which Arrow's reader of footers passes on as a text
    return MemoryError(str(error)) if is_memory else DamagedParquet(error)


class ParquetBatches:
    """The row groups of a Parquet file.

    Args:
        file: seekable.
        is_limited: whether this process may take only so much memory, so that it unfolds anything.

    Attributes:
        schema: the columns.

    Raises:
        Exception: whatever Arrow raises of a damaged file; see `damage_named`.
    """

    def __init__(self, file: BinaryIO, is_limited: bool = False) -> None:
        self._pages = WatchedFile(file, is_limited)
        self._parquet = self._open()
        self.schema: pa.Schema = self._parquet.schema_arrow
        if has_fixed_lists(self.schema):
            self._parquet = self._open(metadata=plain_metadata(file))

    def _open(self, **more: Any) -> pq.ParquetFile:
        return pq.ParquetFile(
            self._pages,
            page_checksum_verification=True,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,  # else it holds a whole row group
            **more,
        )

    @property
    def rows(self) -> int:
        """Rows, as the footer has it."""
        return self._parquet.metadata.num_rows

    @property
    def group_rows(self) -> list[int]:
        """Rows of each row group."""
        metadata = self._parquet.metadata
        return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]

    def column_bytes(self, name: str) -> list[int]:
        """Returns what a column of each row group unfolds to, as the footer has it."""
        metadata = self._parquet.metadata
        return [_column_bytes(metadata.row_group(n), name) for n in range(metadata.num_row_groups)]

    def read(
        self,
        group: int,
        wanted: range,
        names: list[str],
        whole: Collection[str] = (),
        in_us: Collection[str] = (),
    ) -> Iterator[pa.RecordBatch]:
        """Yields the wanted rows of a row group in types that travel, long texts cut.

        Args:
            wanted: rows of the group.
            names: columns to read.
            whole: columns of images among them, whose base64 text is cut only where no image is as
                long.
            in_us: columns of timestamps among them that are to be microseconds.

        Raises:
            FinerThanMicroseconds: if one is not.
            SuspiciousPages: if only a process with a limit should read on.
            Exception: whatever Arrow raises.
        """
        rows = self._rows_at_once(group, names)
        while wanted:
            self._pages.watch(self._parquet, group, rows)
            try:
                for batch in self._pieces(group, rows, wanted, names):
                    wanted = wanted[batch.num_rows :]
                    yield _cut(travelling(batch, self.schema, in_us), whole)
                return
            except TooManyRows as error:
                rows = error.rows

    def _pieces(
        self, group: int, rows: int, wanted: range, names: list[str]
    ) -> Iterator[pa.RecordBatch]:
        reached = 0
        for batch in self._parquet.iter_batches(
            rows, row_groups=[group], columns=names, use_threads=False
        ):
            low = max(wanted.start - reached, 0)
            high = min(wanted.stop - reached, batch.num_rows)
            reached += batch.num_rows
            if low < high:
                yield batch.slice(low, high - low)
            if reached >= wanted.stop:
                return

    def _rows_at_once(self, group: int, names: list[str]) -> int:
        """Returns rows that take some MB, should the footer be right; the pages correct it."""
        metadata = self._parquet.metadata.row_group(group)
        columns = [metadata.column(n) for n in range(metadata.num_columns)]
        read = [c for c in columns if c.path_in_schema.partition(".")[0] in names]
        size = sum(max(column.total_uncompressed_size, 0) for column in read)
        mean = size // max(metadata.num_rows, 1) + 1
        return min(max(BATCH_BYTES // mean, 1), MAX_BATCH_ROWS)


def _cut(batch: pa.RecordBatch, whole: Collection[str]) -> pa.RecordBatch:
    """Cuts texts that are too long, so that none becomes an object of Python before it is cut."""
    if batch.nbytes <= MAX_TEXT_BYTES:
        return batch
    columns = [
        _cut_column(column, _most_of_image if name in whole else _most_of_text)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _most_of_text(view: memoryview) -> int:
    return MAX_TEXT_BYTES


def _most_of_image(view: memoryview) -> int:
    return MAX_BASE64_CHARS + 1 if may_be_long(bytes(view[:512])) else MAX_TEXT_BYTES


def _cut_column(column: pa.Array, most: Callable[[memoryview], int]) -> pa.Array:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    if longest <= MAX_TEXT_BYTES:
        return column
    pieces: list[Any] = [_beginning(value, most) for value in column]
    binary = pa.binary() if pa.types.is_string(column.type) else pa.large_binary()
    return pa.array(pieces, binary).view(column.type)


def _beginning(value: pa.Scalar, most: Callable[[memoryview], int]) -> bytes | None:
    if not value.is_valid:
        return None
    view = memoryview(value.as_buffer())
    if len(view) <= MAX_TEXT_BYTES or len(view) <= most(view):
        return bytes(view)
    # Back to where a character begins.
    return bytes(view[: most(view)]).decode("utf-8", "ignore").encode()


def _column_bytes(group: pq.RowGroupMetaData, name: str) -> int:
    columns = (group.column(index) for index in range(group.num_columns))
    inside = (column for column in columns if column.path_in_schema.split(".")[0] == name)
    return sum(column.total_uncompressed_size for column in inside)
