"""Shows how far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

BAR_INTERVAL_S = 0.5
LINE_INTERVAL_S = 10.0


class Tally:
    """What the line has done in this process, in whichever thread.

    Attributes:
        units: that have their files.
        began: when the first chunk was read, on `time.perf_counter`; None before.
        ended: when the last chunk was written.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.embedded = 0
        self.rejects = 0
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

    def add(self, embedded: int, rejects: int) -> None:
        """Counts rows that have come to the writer."""
        with self._lock:
            self.embedded += embedded
            self.rejects += rejects
            self.ended = time.perf_counter()

    def add_unit(self) -> None:
        """Counts a unit whose files are there."""
        with self._lock:
            self.units += 1

    @property
    def rows(self) -> int:
        """Rows done, either way."""
        return self.embedded + self.rejects


# Stages of an in-process run count here; on remote workers nobody looks at it.
TALLY = Tally()


@contextmanager
def meter(total: int, unit: str, stream: TextIO | None = None) -> Iterator[Callable[[int], object]]:
    """Shows how far a loop of this thread is; gives the function that counts what is done.

    Args:
        total: how many there are.
        unit: of what, in the plural.
        stream: stderr when None.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        with tqdm(total=total, unit=f" {unit}", file=stream, dynamic_ncols=True) as bar:
            yield bar.update
        return
    started_at = shown_at = time.monotonic()
    done = 0

    def count_done(count: int) -> None:
        nonlocal done, shown_at
        done += count
        now = time.monotonic()
        if now - shown_at >= LINE_INTERVAL_S:
            shown_at = now
            rate = done / (now - started_at)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            print(f"{done} of {total} {unit}, {rate:.1f}/s{left}", file=stream, flush=True)

    yield count_done


class Progress:
    """Reports `TALLY` on stderr from a thread of its own, while the runner holds the main thread.

    Args:
        total: rows of the whole run, or None when only reading tells.
        done: rows that earlier runs finished.
        stream: stderr of the moment when None.
    """

    def __init__(self, total: int | None, done: int, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" rows",
            file=stream,
            dynamic_ncols=True,
            disable=not stream.isatty(),
        )
        self._total = total
        self._done = done
        self._stream = stream
        self._started_at = time.monotonic()
        self._before = (TALLY.rows, TALLY.rejects, TALLY.units)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._refresh()
        self._bar.close()

    def _report(self) -> None:
        interval_s = LINE_INTERVAL_S if self._bar.disable else BAR_INTERVAL_S
        while not self._stop.wait(interval_s):
            self._refresh()
            if self._bar.disable:
                print(self._line(), file=self._stream, flush=True)

    def _refresh(self) -> None:
        self._bar.n = self._done + TALLY.rows - self._before[0]
        self._bar.set_postfix_str(self._counts(), refresh=False)
        self._bar.refresh()

    def _line(self) -> str:
        new = TALLY.rows - self._before[0]
        rate = new / (time.monotonic() - self._started_at)
        counts = self._counts()
        if self._total is None:
            return f"{self._done + new} rows, {rate:.1f} rows/s, {counts}"
        left = self._total - self._done - new
        eta = f", {left / rate:.0f} s left" if new else ""
        return f"{self._done + new} of {self._total} rows, {rate:.1f} rows/s, {counts}{eta}"

    def _counts(self) -> str:
        units = TALLY.units - self._before[2]
        return f"{TALLY.rejects - self._before[1]} rejects, {units} units"
