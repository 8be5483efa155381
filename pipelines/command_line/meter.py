"""Shows how far a loop is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

LINE_INTERVAL_S = 10.0


@contextmanager
def meter(
    total: int,
    unit: str,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], object]]:
    """Shows how far a loop of this thread is; gives the function that counts what is done.

    Args:
        total: how many there are.
        unit: of what, in the plural.
        stream: stderr when None.
        clock: tells the time, seconds.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        with tqdm(total=total, unit=f" {unit}", file=stream, dynamic_ncols=True) as bar:
            yield bar.update
        return
    started_at = shown_at = clock()
    done = 0

    def count_done(count: int) -> None:
        nonlocal done, shown_at
        done += count
        now = clock()
        if now - shown_at >= LINE_INTERVAL_S:
            shown_at = now
            rate = done / (now - started_at)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            print(f"{done} of {total} {unit}, {rate:.1f}/s{left}", file=stream, flush=True)

    yield count_done
