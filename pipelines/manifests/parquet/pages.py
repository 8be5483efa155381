"""Looks at the pages of a Parquet file as they are read, before Arrow unfolds them.

How large a page becomes stands in the header before it, and nowhere else that can be trusted: Arrow
allocates what it says, and stops a page that would become more. So the file that Arrow reads from
looks at each header that passes through it. A page is heavy if it says that it becomes more than
`MAX_RATIO` times its bytes; heavy pages of more than `MAX_HEAVY_BYTES` in one column of a row
group are suspicious. So is a header that is not as writers write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq

MAX_RATIO = 16
MAX_HEAVY_BYTES = 32 << 20
# What rows that are read at once may take. A value of a dictionary page, or of one where values
# begin like the one before, comes back any number of times, so such a page bounds their number.
MAX_BATCH_BYTES = 64 << 20
MAX_PAGE_HEADER_BYTES = 1 << 16

_DICTIONARY_PAGE, _DELTA_BYTE_ARRAY = 2, 7
_VALUE_BYTES = 8
_I32, _BINARY, _STRUCT = 5, 8, 12
_MAX_DEPTH = 8


class SuspiciousPages(Exception):
    """Pages that a process without a limit should not unfold."""


class TooManyRows(Exception):
    """A page of which fewer rows must be read at once: so many."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


class PageHeader(NamedTuple):
    """What matters of a page's header."""

    header_bytes: int
    kind: int
    unfolded_bytes: int
    packed_bytes: int
    values: int
    encoding: int


@dataclass
class _Chunk:
    """A column of the row group that is read, and where its next page begins."""

    next_page: int
    end: int
    is_repeated: bool
    heavy_bytes: int = 0


class WatchedFile:
    """A file for Arrow to read from, which checks the pages of one row group at a time.

    Args:
        file: seekable.
        is_limited: whether this process may take only so much memory, so that it unfolds anything.
    """

    def __init__(self, file: BinaryIO, is_limited: bool = False) -> None:
        self._file = file
        self._is_limited = is_limited
        self._rows = 1
        self._chunks: list[_Chunk] = []
        self.seek, self.tell = file.seek, file.tell
        self.closed = False

    def close(self) -> None:
        """Leaves the file open, which its opener closes."""

    def readable(self) -> bool:
        """Says yes."""
        return True

    def watch(self, parquet: pq.ParquetFile, group: int, rows: int) -> None:
        """Looks from now on at the pages of a row group, of which `rows` rows are read at once."""
        self._rows = rows
        metadata = parquet.metadata.row_group(group)
        self._chunks = []
        for index in range(metadata.num_columns):
            column = metadata.column(index)
            start, dictionary = column.data_page_offset, column.dictionary_page_offset
            if dictionary is not None and 0 < dictionary < start:
                start = dictionary
            is_repeated = parquet.schema.column(index).max_repetition_level > 0
            self._chunks.append(_Chunk(start, start + column.total_compressed_size, is_repeated))

    def read(self, size: int = -1) -> bytes:
        """Reads, and checks the pages that begin in what was read.

        Raises:
            SuspiciousPages: if they become too much.
            TooManyRows: if fewer rows must be read at once.
        """
        start = self._file.tell()
        data = self._file.read(size)
        for chunk in self._chunks:
            while start <= chunk.next_page < min(start + len(data), chunk.end):
                self._check(chunk, data[chunk.next_page - start :][:MAX_PAGE_HEADER_BYTES])
        return data

    def _check(self, chunk: _Chunk, head: bytes) -> None:
        header = page_header(head)
        if header is None and len(head) < MAX_PAGE_HEADER_BYTES:  # it ends in what is read next
            header = page_header(self._at(chunk.next_page))
        if header is None:
            chunk.next_page = chunk.end
            if self._is_limited:
                return
            raise SuspiciousPages
        chunk.next_page += header.header_bytes + header.packed_bytes
        if header.kind == _DICTIONARY_PAGE or header.encoding == _DELTA_BYTE_ARRAY:
            most_rows = max(1, MAX_BATCH_BYTES // (header.unfolded_bytes + 1))
            if most_rows < self._rows:
                raise TooManyRows(most_rows)
        self._weigh(chunk, header)

    def _weigh(self, chunk: _Chunk, header: PageHeader) -> None:
        values = header.values * _VALUE_BYTES if chunk.is_repeated else 0
        unfolded = max(header.unfolded_bytes, values)
        if unfolded > MAX_RATIO * header.packed_bytes:
            chunk.heavy_bytes += unfolded
        if chunk.heavy_bytes > MAX_HEAVY_BYTES and not self._is_limited:
            raise SuspiciousPages

    def _at(self, position: int) -> bytes:
        here = self._file.tell()
        self._file.seek(position)
        data = self._file.read(MAX_PAGE_HEADER_BYTES)
        self._file.seek(here)
        return data


def page_header(data: bytes) -> PageHeader | None:
    """Reads the header that `data` begins with; None if it is not whole or odd in any way."""
    try:
        reader = _Thrift(data)
        fields = reader.struct()
        own: dict[int, Any] = next((fields[n] for n in (5, 7, 8) if n in fields), {})
        values = own.get(1, 0)
        encoding = own.get(4 if 8 in fields else 2, 0)
        header = PageHeader(reader.at, fields[1], fields[2], fields[3], values, encoding)
    except (IndexError, KeyError, ValueError, AttributeError):
        return None
    return header if all(isinstance(n, int) and n >= 0 for n in header) else None


class _Thrift:
    """Reads a struct of Thrift's compact protocol as far as page headers have it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Reads numbers and structs by field; the rest is skipped.

        Raises:
            IndexError: if it is not whole.
            ValueError: if it is not as writers write it.
        """
        if depth > _MAX_DEPTH:
            raise ValueError
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            if not head >> 4:  # a field that does not follow by its number
                raise ValueError
            number += head >> 4
            found[number] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return bool(kind == 1)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _BINARY:
            size = self._varint()
            self.at += size
            if self.at > len(self._data):
                raise IndexError
            return None
        if kind not in (3, 4, _I32, 6):
            raise ValueError
        number = self._varint() if kind != 3 else self._byte()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if number >= 1 << 32:
            raise ValueError
        return number

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte
