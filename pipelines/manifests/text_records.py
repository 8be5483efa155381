"""Cuts text manifests into records, and knows at which byte each begins.

A record of JSONL is a line that is not blank; of CSV and TSV what the quoting rules of RFC 4180
make one, so that a caption may hold line breaks. A quote that should not be there would make one
record of all that follows: such a line is a record by itself, and the next ones are read anew.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

from pipelines.manifests.rows import MAX_RECORD_BYTES, Fault
from pipelines.storage import reading
from pipelines.storage.compression import decompressed, is_compressed
from schemas.manifest import ManifestError
from schemas.rejects import Reason

DELIMITERS = {"csv": ",", "tsv": "\t"}
MAX_RECORD_LINES = 64
TOO_LONG = "\x00line too long"  # stands for such a line
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_BUFFER_BYTES = 1 << 20


@contextmanager
def open_text(uri: str) -> Iterator[BinaryIO]:
    with reading.open_input(uri) as file:
        if is_compressed(uri):
            yield decompressed(uri, file)  # which does not close what it reads from
        else:  # the files of object stores have no `readline` with a limit
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, file), _BUFFER_BYTES))


class _Line(NamedTuple):
    """A line, or what stands for one that is too long, and the bytes it has in the file."""

    size: int
    text: str


class TextRecords(Iterator[Any]):
    """Records of a text file: lines of JSONL, lists of fields (or a fault) of CSV and TSV.

    `offset` is the byte, in the decompressed text, at which the next record begins. Bytes that are
    not UTF-8 arrive as surrogates, so that the reader of a record can refuse it alone.
    """

    def __init__(self, file: BinaryIO, kind: str, uri: str) -> None:
        self._file = file
        self._uri = uri
        self.offset = 0
        self._returned: deque[_Line] = deque()
        self._records: Iterator[Any]
        if kind == "jsonl":
            self._records = (line.text for line in self._lines() if line.text.strip())
        else:
            csv.field_size_limit(MAX_RECORD_BYTES)
            self._records = self._csv_records(DELIMITERS[kind])

    def __next__(self) -> Any:
        return next(self._records)

    def skip_to(self, offset: int, *, seekable: bool) -> None:
        """Goes on at a byte offset behind what was read."""
        if offset <= self.offset:
            return
        if seekable:
            self._file.seek(offset)
        else:
            left = offset - self.offset
            while left and (skipped := self._file.read(min(left, _BUFFER_BYTES))):
                left -= len(skipped)
        self.offset = offset

    def _csv_records(self, delimiter: str) -> Iterator[list[str] | Fault]:
        while True:
            taken: list[_Line] = []  # of the record that is being read
            # Strict: else a quoted field cut short by the end of the file passes for a whole one.
            reader = csv.reader(self._lines_of_record(taken), delimiter=delimiter, strict=True)
            try:
                for record in reader:
                    taken.clear()
                    if record:
                        yield record
                return
            except csv.Error as error:
                self._give_back(taken[1:])
                yield Fault(Reason.MALFORMED_ROW, str(error))

    def _lines_of_record(self, taken: list[_Line]) -> Iterator[str]:
        for line in self._lines():
            if len(taken) == MAX_RECORD_LINES:
                self._give_back([line])
                raise csv.Error(
                    f"a quote that opens here is not closed within {MAX_RECORD_LINES} lines; where "
                    "a quote is part of a field, double it and quote the field"
                )
            taken.append(line)
            yield line.text

    def _give_back(self, lines: list[_Line]) -> None:
        self._returned.extendleft(reversed(lines))
        self.offset -= sum(line.size for line in lines)

    def _lines(self) -> Iterator[_Line]:
        while line := self._returned.popleft() if self._returned else self._read_line():
            self.offset += line.size
            yield line

    def _read_line(self) -> _Line | None:
        line = self._file.readline(MAX_RECORD_BYTES)
        if not line:
            return None
        if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
            return _Line(len(line) + self._drop_rest_of_line(), TOO_LONG + "\n")
        text = _without_bom(line, self._uri) if self.offset == 0 else line
        return _Line(len(line), text.decode("utf-8", "surrogateescape"))

    def _drop_rest_of_line(self) -> int:
        dropped = 0
        while line := self._file.readline(MAX_RECORD_BYTES):
            dropped += len(line)
            if line.endswith(b"\n"):
                break
        return dropped


def _without_bom(line: bytes, uri: str) -> bytes:
    # Without a mark, every other byte of UTF-16 is zero where the text is plain.
    if line.startswith(_UTF16_BOMS) or (len(line) > 3 and b"\0\0" in (line[:4:2], line[1:4:2])):
        raise ManifestError(
            f"expected a manifest in UTF-8, got UTF-16 in {uri}; convert it, for example with "
            "`iconv -f utf-16 -t utf-8`"
        )
    return line.removeprefix(_BOM)
