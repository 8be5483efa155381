"""What the line has done in this process: rows and units, while they are done."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping


def added(total: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """Adds the seconds of two pipelines, stage by stage."""
    return {name: total.get(name, 0.0) + more.get(name, 0.0) for name in {*total, *more}}


class Tally:
    """What the line has done in this process, in whichever thread.

    Attributes:
        rows: of the manifest that are done, either way.
        embedded: captions, of which a row may have several; and with them
        reasons: those that were rejected, by reason.
        units: that have their files.
        began: when the first chunk was read, on `time.perf_counter`; None before.
        ended: when the last chunk was written.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows = self.embedded = 0
        self.reasons: Counter[str] = Counter()
        self.units = 0
        self.began: float | None = None
        self.ended = 0.0

    @property
    def seconds(self) -> float:
        """Time from the first chunk to the last."""
        return self.ended - self.began if self.began is not None else 0.0

    def restart(self) -> None:
        """Forgets when the first chunk was read."""
        self.began, self.ended = None, 0.0

    def note_start(self) -> None:
        """Notes that a chunk has been read."""
        if self.began is None:
            self.began = time.perf_counter()

    def add(self, rows: int, embedded: int, reasons: Mapping[str, int]) -> None:
        """Counts what has come to the writer."""
        with self._lock:
            self.rows += rows
            self.embedded += embedded
            self.reasons.update(reasons)
            self.ended = time.perf_counter()

    def add_unit(self) -> None:
        """Counts a unit whose files are there."""
        with self._lock:
            self.units += 1


# Stages of an in-process run count here; on remote workers nobody looks at it.
TALLY = Tally()
