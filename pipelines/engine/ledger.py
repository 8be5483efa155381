"""What the writer of a bundle has of each unit, kept where rows still can be held back."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.records import Chunk

MAX_WAITING_ROWS = 20_000
MAX_WAITING_BYTES = 64 << 20  # of vectors
MAX_OPEN_UNITS = 5


@dataclass
class _Begun:
    """A unit of which chunks have left: the next chunk, the number of chunks, rows that wait."""

    next: int = 0
    chunks: int | None = None
    waiting: dict[int, int] = field(default_factory=dict)


class Ledger:
    """Decides which chunk may overtake slower ones of its own unit, and of others.

    The writer runs in the thread that has to bring what is missing, so it cannot wait for it. The
    bounds are on what waits for an earlier chunk of its own unit and on units begun: one on how far
    ahead of the oldest chunk others may be would let one slow image stop hundreds of small units.

    Args:
        row_bytes: of the vectors of a row.
    """

    def __init__(self, row_bytes: int) -> None:
        self.max_rows = max(1, min(MAX_WAITING_ROWS, MAX_WAITING_BYTES // max(row_bytes, 1)))
        self.waiting = 0
        self._begun: dict[str, _Begun] = {}

    def may_leave(self, chunk: Chunk) -> bool:
        """Tells whether the writer may be sent a chunk that is not the oldest."""
        if chunk.unit is None:
            return True
        begun = self._begun.get(chunk.unit.unit_id)
        if begun is None and len(self._begun) >= MAX_OPEN_UNITS - 1:  # one is left for the oldest
            return False
        is_next = chunk.number == (begun.next if begun else 0)
        return is_next or self.waiting + chunk.size <= self.max_rows

    def leaves(self, chunk: Chunk) -> None:
        """Notes that a chunk is on its way to the writer."""
        if chunk.unit is None:
            return
        begun = self._begun.setdefault(chunk.unit.unit_id, _Begun())
        begun.chunks = chunk.end.chunks if chunk.end else begun.chunks
        begun.waiting[chunk.number] = chunk.size
        self.waiting += chunk.size
        while begun.next in begun.waiting:
            self.waiting -= begun.waiting.pop(begun.next)
            begun.next += 1
        if begun.next == begun.chunks:
            del self._begun[chunk.unit.unit_id]
