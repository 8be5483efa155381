"""Cuts a file that is one JSON array into its elements, and knows at which byte each begins.

Only brackets and quotes are looked at, so that an element which is no JSON costs its row alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.manifests.text.records import TOO_LONG, without_bom
from pipelines.storage.compression import DamagedStream
from schemas.manifest import ManifestError

_PIECE_BYTES = 1 << 20
_SPACE = re.compile(rb"[ \t\r\n]*")
_TOKEN = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')


class ArrayRecords(Iterator[str]):
    """The elements of an array, as text; `offset` is the byte behind the last one.

    Args:
        most: bytes of an element; a longer one is stood for as a line that is too long is.

    Raises:
        ManifestError: from `next`, if the file is no array, or no UTF-8.
        DamagedStream: from `next`, where the array is cut, or something follows it.
    """

    def __init__(self, file: BinaryIO, uri: str, most: int) -> None:
        self._file, self._uri, self._most = file, uri, most
        # `read` would lose what it gathered before damage.
        self._read = getattr(file, "read1", file.read)
        self._held, self._at = b"", 0  # what was read, and how far it was handed out
        self._before = 0  # bytes of the file before what is held
        self._is_inside = False

    @property
    def offset(self) -> int:
        """Byte at which reading goes on."""
        return self._before + self._at

    def skip_to(self, offset: int, *, seekable: bool) -> None:
        """Goes on at an offset that was behind an element."""
        if offset <= self.offset:
            return
        self._is_inside = True
        if seekable:
            self._file.seek(offset)
            self._held, self._at, self._before = b"", 0, offset
        while self.offset < offset:
            self._at += min(offset - self.offset, len(self._held) - self._at)
            if self._at == len(self._held) and not self._more():
                break

    def __next__(self) -> str:
        if not self._is_inside:
            self._enter()
        while (mark := self._peek()) == b",":
            self._at += 1
        if not mark:
            raise DamagedStream("the array is not closed")
        if mark != b"]":
            return self._element()
        self._at += 1
        if self._peek():
            raise DamagedStream(f"something follows the array at byte {self.offset}")
        self._at -= 1  # so that asking again ends again
        raise StopIteration

    def _enter(self) -> None:
        self._more()
        plain = without_bom(self._held, self._uri)
        self._before, self._held = len(self._held) - len(plain), plain
        mark = self._peek()
        if mark != b"[":
            shown = mark.decode("utf-8", "replace") or "an empty file"
            raise ManifestError(f"expected one JSON array in {self._uri}, got {shown}")
        self._at, self._is_inside = self._at + 1, True

    def _peek(self) -> bytes:
        """Returns the next byte that is no space; nothing at the end of the file."""
        while True:
            found = _SPACE.match(self._held, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._held) or not self._more():
                return self._held[self._at : self._at + 1]

    def _element(self) -> str:
        scan, seen, is_too_long = _Scan(), 0, False
        while True:
            seen = scan.look_at(self._held, self._at + seen) - self._at
            if scan.is_done:
                break
            if seen > self._most:  # only its end is looked for
                is_too_long, dropped = True, len(self._held) - self._at
                self._at, seen = self._at + dropped, seen - dropped
            if not self._more():
                raise DamagedStream("the array ends inside a value")
        text = self._held[self._at : self._at + seen]
        self._at += seen
        if is_too_long or len(text) > self._most:
            return f"{TOO_LONG}{self._most}"
        return text.decode("utf-8", "surrogateescape")

    def _more(self) -> bool:
        """Reads on, and forgets what was handed out; tells whether there was more."""
        piece = self._read(_PIECE_BYTES)
        self._before += self._at
        self._held, self._at = self._held[self._at :] + piece, 0
        return bool(piece)


class _Scan:
    """Looks for the end of a JSON value."""

    def __init__(self) -> None:
        self.is_done = False
        self._depth = 0
        self._in_string = False

    def look_at(self, data: bytes, start: int) -> int:
        """Returns where the value ends, or to where it was looked at."""
        at = start
        while found := (_IN_STRING if self._in_string else _TOKEN).search(data, at):
            mark, at = found[0], found.end()
            if mark == b"\\":
                at += 1  # which may be beyond the data
            elif mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"[{":
                self._depth += 1
            elif self._depth == 0:  # behind a number or a word
                self.is_done = True
                return at - (mark != b"}")
            elif mark in b"]}":
                self._depth -= 1
                if self._depth == 0:
                    self.is_done = True
                    return at
        return max(at, len(data))
