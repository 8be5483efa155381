"""Shows how far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from tqdm import tqdm

from pipelines.command_line.meter import LINE_INTERVAL_S
from pipelines.engine.counters import TALLY

BAR_INTERVAL_S = 0.5


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
