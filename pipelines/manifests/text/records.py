"""Cuts text manifests into records, and knows at which byte each begins.

A record of JSONL is a line that is not blank; of CSV and TSV what the quoting rules of RFC 4180
make one, so that a caption may hold line breaks. A quote that should not be there would make one
record of all that follows: such a line is a record by itself, and the next ones are read anew.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, NamedTuple

from pipelines.images.base64_text import MAX_BASE64_CHARS
from pipelines.manifests.rows import MAX_RECORD_BYTES, Fault
from pipelines.storage import reading
from pipelines.storage.compression import decompressed, is_compressed
from schemas.manifest import BASE64, NONE, Dialect, ManifestError
from schemas.rejects import Reason

DELIMITERS = {"csv": ",", "tsv": "\t"}
_QUOTES_ARE_TEXT = "where quotes are part of the text, pass `csv_quoting='none'`"
_PLAIN = Dialect()
MAX_RECORD_LINES = 64
TOO_LONG = "\x00line too long: "  # and the most there may be, stand for such a line
# A line of text with no more in it is an image's base64, of which a quoted field may have many.
_BASE64_LINE = re.compile(r"[A-Za-z0-9+/_=-]{16,}\s*")
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_BUFFER_BYTES = 1 << 20


@contextmanager
def open_text(uri: str) -> Iterator[BinaryIO]:
    with reading.open_input(uri) as file:
        # What decompresses does not close what it reads from.
        yield decompressed(uri, file) if is_compressed(uri) else file


def most_of_record(dialect: Dialect) -> int:
    """Returns the bytes that a record has at most; a longer one is rejected."""
    return MAX_RECORD_BYTES + (MAX_BASE64_CHARS if dialect.image_encoding == BASE64 else 0)


class _Line(NamedTuple):
    """A line, or what stands for one that is too long, and the bytes it has in the file."""

    size: int
    text: str


class TextRecords(Iterator[Any]):
    """Records of a text file: lines of JSONL, lists of fields (or a fault) of CSV and TSV.

    `offset` is the byte, in the decompressed text, at which the next record begins. Bytes that are
    not UTF-8 arrive as surrogates, so that the reader of a record can refuse it alone.

    Args:
        dialect: the delimiter and the quoting; images in base64 let a record be as long as one is.
    """

    def __init__(self, file: BinaryIO, kind: str, uri: str, dialect: Dialect = _PLAIN) -> None:
        self._file = file
        self._uri = uri
        self._most = most_of_record(dialect)
        self.offset = 0
        self._returned: deque[_Line] = deque()
        self._records: Iterator[Any]
        if kind == "jsonl":
            self._records = (line.text for line in self._lines() if line.text.strip())
        else:
            # Of all readers of the process; what a line or a record has in bytes is bounded here.
            csv.field_size_limit(MAX_RECORD_BYTES + MAX_BASE64_CHARS)
            self._mark = dialect.csv_delimiter or DELIMITERS[kind]
            self._is_plain = dialect.csv_quoting == NONE
            self._records = self._csv_records()

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

    def _csv_records(self) -> Iterator[list[str] | Fault]:
        while True:
            taken: list[_Line] = []  # of the record that is being read
            # Strict: else a quoted field cut short by the end of the file passes for a whole one.
            lines = self._lines_of_record(taken)
            quoting: Literal[0, 3] = csv.QUOTE_NONE if self._is_plain else csv.QUOTE_MINIMAL
            reader = csv.reader(lines, delimiter=self._mark, quoting=quoting, strict=True)
            try:
                for record in reader:
                    taken.clear()
                    if record:
                        yield record
                return
            except csv.Error as error:
                self._give_back(taken[1:])
                yield Fault(Reason.MALFORMED_ROW, f"{error}; {_QUOTES_ARE_TEXT}")

    def _lines_of_record(self, taken: list[_Line]) -> Iterator[str]:
        others, size = 0, 0
        for line in self._lines():
            if not taken:
                others, size = 0, 0
            size += line.size
            if others == MAX_RECORD_LINES or (taken and size > self._most):
                self._give_back([line])
                raise csv.Error(
                    f"a quote that opens here is not closed within {MAX_RECORD_LINES} lines; where "
                    "a quote is part of a field, double it and quote the field"
                )
            others += not taken or not _BASE64_LINE.fullmatch(line.text)
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
        line = self._file.readline(self._most)
        if not line:
            return None
        if len(line) == self._most and not line.endswith(b"\n"):
            return _Line(len(line) + self._drop_rest_of_line(), f"{TOO_LONG}{self._most}\n")
        text = without_bom(line, self._uri) if self.offset == 0 else line
        return _Line(len(line), text.decode("utf-8", "surrogateescape"))

    def _drop_rest_of_line(self) -> int:
        dropped = 0
        while line := self._file.readline(MAX_RECORD_BYTES):
            dropped += len(line)
            if line.endswith(b"\n"):
                break
        return dropped


def too_long(text: str) -> Fault | None:
    """Returns what is wrong with a line, or a field of one, that stands for one too long."""
    head, mark, most = text.partition(TOO_LONG)
    if not mark:
        return None
    return Fault(Reason.MALFORMED_ROW, f"the line is longer than {most.strip()} bytes")


def without_bom(line: bytes, uri: str) -> bytes:
    """Returns how a file begins, without its byte order mark.

    Raises:
        ManifestError: if it is UTF-16.
    """
    # Without a mark, every other byte of UTF-16 is zero where the text is plain.
    if line.startswith(_UTF16_BOMS) or (len(line) > 3 and b"\0\0" in (line[:4:2], line[1:4:2])):
        raise ManifestError(
            f"expected a manifest in UTF-8, got UTF-16 in {uri}; convert it, for example with "
            "`iconv -f utf-16 -t utf-8`"
        )
    return line.removeprefix(_BOM)
