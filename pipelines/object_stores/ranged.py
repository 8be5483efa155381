"""An object as a file: read in parts, which are asked for ahead of who reads on."""

from __future__ import annotations

import io
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Protocol

from pipelines.object_stores.answers import Got, Span
from pipelines.object_stores.faults import ChangedError, named

FIRST_BYTES = 2 << 20  # what is no larger is one request
PART_BYTES = 8 << 20
MOST_AHEAD = 6
TAIL_BYTES = 1 << 16
PLACES = 3  # of a file that are read on from by turns, as columns of a table are
AHEAD_BYTES = 128 << 20  # of all files of the process


class Parts(Protocol):
    """Begins to fetch a part of one object."""

    def __call__(self, span: Span) -> Future[Got]: ...


class _Budget:
    """Bytes that may be asked for ahead."""

    def __init__(self, total: int) -> None:
        self._left, self._lock = total, threading.Lock()

    def take(self, size: int) -> bool:
        """Takes so many, if there are as many."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """Gives so many back."""
        with self._lock:
            self._left += size


_AHEAD = _Budget(AHEAD_BYTES)


class _Part:
    """A part that was asked for.

    Args:
        ahead: bytes that were taken for it.
    """

    def __init__(self, start: int, end: int, future: Future[Got], ahead: int = 0) -> None:
        self.start, self.end, self._future, self._ahead = start, end, future, ahead
        self._got: Got | None = None

    def wait(self) -> Got:
        """Waits for it; from then on it counts as read."""
        if self._got is None:
            try:
                self._got = self._future.result()
            finally:
                self.drop()
        return self._got

    def drop(self) -> None:
        """Gives it up."""
        self._future.cancel()
        _AHEAD.give_back(self._ahead)
        self._ahead = 0


class RangedFile(io.RawIOBase):
    """An object that is read in parts of some MB.

    Whoever reads on at a place has the more parts asked for ahead the longer that goes on. One part
    before the place stays, for readers that go back a little. Nothing but that is held.

    Args:
        begin: fetches parts.
        name: of the object, for messages.
        at_end: whether its end is wanted first, as of Parquet.

    Attributes:
        version: of the object; all parts are of it.

    Raises:
        MissingError, PermissionError, StoreFault: also when it is read.
        ChangedError: when it is read, if it is another object by then.
    """

    def __init__(self, begin: Parts, name: str, at_end: bool = False) -> None:
        self._begin, self._name, self._at = begin, name, 0
        self._places: list[deque[_Part]] = []
        first = _Part(0, 0, begin(Span(-TAIL_BYTES) if at_end else Span(0, FIRST_BYTES)))
        with named(name):
            got = first.wait()
        self._size, self.version = got.size, got.version
        first.start = got.size - len(got.data) if at_end else 0
        first.end = first.start + len(got.data)
        self._first = first

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        part = self._part_at(self._at, len(buffer))
        begin = self._at - part.start
        data = memoryview(part.wait().data)[begin : begin + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        for place in self._places:
            _drop(place)
        self._places = []
        super().close()

    def _part_at(self, at: int, size: int) -> _Part:
        """Returns the part that a byte is in, once it has come.

        Args:
            size: bytes that are wanted from there on.
        """
        if self._first.start <= at < self._first.end:
            return self._first
        place = self._place(at)
        if not place:
            place.append(self._ask(at, max(FIRST_BYTES, min(size, PART_BYTES))))
        while place[-1].end <= at:
            place.append(self._ask(place[-1].end, PART_BYTES))
        number = next(n for n, part in enumerate(place) if at < part.end)
        for _ in range(number - 1):
            place.popleft().drop()
        if number:
            self._ask_ahead(place)
        part = place[min(number, 1)]
        self._check(part)
        return part

    def _place(self, at: int) -> deque[_Part]:
        """Returns what is held of where a byte is, or follows; the place that was used last is the
        last one."""
        for place in self._places:
            if place[0].start <= at <= place[-1].end:
                self._places.remove(place)
                break
        else:
            place = deque()
            if at == self._first.end:
                place.append(self._first)
        for old in self._places[: 1 - PLACES]:
            _drop(old)
        self._places = [*self._places[1 - PLACES :], place]
        return place

    def _ask(self, start: int, size: int, ahead: int = 0) -> _Part:
        end = min(start + size, self._size)
        return _Part(start, end, self._begin(Span(start, end)), ahead)

    def _ask_ahead(self, place: deque[_Part]) -> None:
        """Asks for what follows, one more each time, as far as it is bounded."""
        for _ in range(2):
            start = place[-1].end
            if len(place) - 2 >= MOST_AHEAD or start >= self._size or not _AHEAD.take(PART_BYTES):
                return
            place.append(self._ask(start, PART_BYTES, PART_BYTES))

    def _check(self, part: _Part) -> None:
        """Waits for a part, and makes sure that it is of the object that was opened, and whole."""
        with named(self._name):
            got = part.wait()
        if (got.size, got.version) != (self._size, self.version):
            raise ChangedError(f"{self._name} was changed while it was read; run again")
        if len(got.data) != part.end - part.start:
            raise ChangedError(f"got {len(got.data)} of {part.end - part.start} bytes")


def _drop(place: deque[_Part]) -> None:
    for part in place:
        part.drop()
