"""Shows how far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from pipelines.command_line.meter import LINE_INTERVAL_S
from pipelines.engine.slots.board import Board
from pipelines.engine.tally import TALLY
from pipelines.output.layout import EMBEDDINGS
from pipelines.ownership.planned import PlannedRun
from pipelines.storage import listing, uris

BAR_INTERVAL_S = 0.5


class Done(NamedTuple):
    """What a run has done since it began.

    Attributes:
        rejects: rows by reason, as far as that is known before a run ends.
        slots: what each does, a line a slot.
    """

    rows: int
    rejects: Mapping[str, int]
    units: int
    slots: tuple[str, ...] = ()


def in_this_process() -> Callable[[], Done]:
    """Returns what counts the line of this process from now on."""
    rows, rejects, units = TALLY.rows, Counter(TALLY.reasons), TALLY.units
    return lambda: Done(TALLY.rows - rows, TALLY.reasons - rejects, TALLY.units - units)


def on_slots(board: Board) -> Callable[[], Done]:
    """Returns what counts the slots of a supervisor."""
    return lambda: Done(board.rows, board.rejects, board.done_items, tuple(board.lines()))


def in_output(planned: PlannedRun, output: str) -> Callable[[], Done]:
    """Returns what counts the files that a runner elsewhere leaves from now on."""
    folder, rows = uris.join(output, EMBEDDINGS), dict(planned.units)
    before, last = set(listing.list_files(folder)), Done(0, {}, 0)

    def count() -> Done:
        nonlocal last
        with suppress(OSError):  # a store that fails for now is asked again
            new = [uris.base_name(f) for f in listing.list_files(folder) if f not in before]
            names = [name.removesuffix(".parquet") for name in new if name.endswith(".parquet")]
            last = Done(sum(rows.get(name) or 0 for name in names), {}, len(names))
        return last

    return count


class Progress:
    """Reports on stderr from a thread of its own, while an engine holds the main thread.

    Args:
        total: rows of the whole run, or None when only reading tells.
        done: rows that earlier runs finished.
        count: tells what this one has done.
        stream: stderr of the moment when None.
    """

    def __init__(
        self,
        total: int | None,
        done: int,
        count: Callable[[], Done],
        stream: TextIO | None = None,
    ) -> None:
        stream = stream or sys.stderr
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" rows",
            file=stream,
            dynamic_ncols=True,
            disable=not stream.isatty(),
        )
        self._total, self._done, self._count = total, done, count
        self._stream = stream
        self._started_at = time.monotonic()
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

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        with self._bar.external_write_mode(file=self._stream):
            print(f"clip-beam embed: {line}", file=self._stream, flush=True)

    def snapshot(self) -> dict[str, Any]:
        """Returns what others may want to know who do not see the terminal."""
        done = self._count()
        rate = done.rows / max(time.monotonic() - self._started_at, 1e-6)
        return {
            "rows": self._done + done.rows,
            "rows_of_all": self._total,
            "rows_per_s": round(rate, 1),
            "rejects": dict(done.rejects),
            "units": done.units,
            "slots": list(done.slots),
        }

    def _report(self) -> None:
        interval_s = LINE_INTERVAL_S if self._bar.disable else BAR_INTERVAL_S
        while not self._stop.wait(interval_s):
            self._refresh()
            if self._bar.disable:
                print(self._line(), file=self._stream, flush=True)

    def _refresh(self) -> None:
        if not self._bar.disable:
            done = self._count()
            self._bar.n = self._done + done.rows
            self._bar.set_postfix_str(_counts(done), refresh=False)
            self._bar.refresh()

    def _line(self) -> str:
        done = self._count()
        rate = done.rows / (time.monotonic() - self._started_at)
        counts = _counts(done)
        if self._total is None:
            return f"{self._done + done.rows} rows, {rate:.1f} rows/s, {counts}"
        left = self._total - self._done - done.rows
        eta = f", {left / rate:.0f} s left" if done.rows else ""
        return f"{self._done + done.rows} of {self._total} rows, {rate:.1f} rows/s, {counts}{eta}"


def _counts(done: Done) -> str:
    rejects = ", ".join(f"{name} {count}" for name, count in sorted(done.rejects.items()))
    of_them = f" ({rejects})" if rejects else ""
    return f"{sum(done.rejects.values())} rejects{of_them}, {done.units} units"
