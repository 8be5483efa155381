"""Runs batches that may fail: halves them when memory runs out, finds the row that breaks one.

How a row's fault is told from the machine's: before a row is blamed, the machine must still do a
row that is known to be good. If it cannot (the device is lost, another process holds all memory,
the program is wrong), the error is raised, and the runner tries again or fails the job; no row is
rejected for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Rows(Protocol):
    """What can be cut into parts."""

    def __len__(self) -> int: ...
    def __getitem__(self: In, part: slice, /) -> In: ...


In = TypeVar("In", bound="Rows")
Out = TypeVar("Out")

GROW_AFTER = 16  # batches in a row that fit, before a size that did not is tried again


class BatchLimit:
    """How many rows fit at once, as far as is known; shared by the threads of a process.

    Halved when memory runs out; doubled after `GROW_AFTER` full batches that fit; and there is none
    any more once the size that first failed fits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: int | None = None
        self._failed_at = 0
        self._fitted = 0

    @property
    def rows(self) -> int | None:
        """Rows to try at once, or None while nothing has failed."""
        return self._rows

    def shrink(self, rows: int) -> None:
        """Notes that `rows` did not fit."""
        with self._lock:
            self._failed_at = rows if self._rows is None else max(self._failed_at, rows)
            half = max(rows // 2, 1)
            self._rows = half if self._rows is None else min(self._rows, half)
            self._fitted = 0

    def forget(self) -> None:
        """Goes back to no limit."""
        with self._lock:
            self._rows = None
            self._fitted = 0

    def fitted(self, rows: int) -> None:
        """Notes that `rows` did fit; small ones say nothing about larger ones."""
        with self._lock:
            if self._rows is None or rows < self._rows:
                return
            self._fitted += 1
            if self._fitted >= GROW_AFTER:
                self._fitted = 0
                self._rows = None if self._rows >= self._failed_at else 2 * self._rows


@dataclass(frozen=True)
class BatchRecovery(Generic[In, Out]):
    """Applies a function to batches, and sets aside the rows it fails on.

    Attributes:
        work: the function, of the rows of a batch.
        check_machine: does one row that is known to be fine; raises when the machine cannot.
        blame: makes what stands for a row that fails alone, from its error.
        is_out_of_memory: tells errors that a smaller batch may avoid.
        release: gives unused memory back before the next attempt.
    """

    work: Callable[[In], Out]
    check_machine: Callable[[], object]
    blame: Callable[[Exception], Out]
    is_out_of_memory: Callable[[Exception], bool]
    release: Callable[[], object]

    def run(self, batch: In, limit: BatchLimit) -> list[Out]:
        """Returns what the function makes of the parts of a batch, in order.

        Raises:
            Exception: what `check_machine` raises, when a row fails and the machine does, too.
        """
        results: list[Out] = []
        done = 0
        while done < len(batch):
            part = batch[done : done + (limit.rows or len(batch))]
            found = self._try(part, limit)
            results += found
            done += len(part) if found else 0  # nothing, when memory ran out: again with fewer
        return results

    def _try(self, rows: In, limit: BatchLimit) -> list[Out]:
        """Returns what becomes of the rows; nothing when memory ran out."""
        try:
            result = self.work(rows)
            limit.fitted(len(rows))
            return [result]
        except Exception as caught:  # noqa: BLE001 - any error is either a row's or the machine's
            # The traceback keeps frames alive, and with them the tensors that filled the memory.
            error = caught.with_traceback(None)
        out_of_memory = self.is_out_of_memory(error)
        if out_of_memory:
            self.release()
        if len(rows) == 1:
            return [self._blamed(error, limit)]
        if out_of_memory:
            limit.shrink(len(rows))
            return []
        half = len(rows) // 2
        return self.run(rows[:half], limit) + self.run(rows[half:], limit)

    def _blamed(self, error: Exception, limit: BatchLimit) -> Out:
        self.check_machine()
        if self.is_out_of_memory(error):
            limit.forget()  # the row was too large, not the batches
        return self.blame(error)
