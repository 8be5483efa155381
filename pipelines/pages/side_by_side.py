"""Does several things in threads, within a time for all of them together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")

THREADS = 16


def side_by_side(
    work: Iterable[tuple[K, Callable[[], T]]], seconds: float
) -> Iterator[tuple[K, T | None]]:
    """Yields what each piece of work returns, as it is done; None for what was not done in time.

    The time begins once all of the work is known. What goes on beyond it is left to itself.

    Args:
        work: a name and a function that raises nothing, each.
    """
    todo: queue.SimpleQueue[tuple[K, Callable[[], T]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[K, T]] = queue.SimpleQueue()
    left = set()
    for name, call in work:
        left.add(name)
        todo.put((name, call))
    end = time.monotonic() + seconds

    def run() -> None:
        while time.monotonic() < end:
            try:
                name, call = todo.get_nowait()
            except queue.Empty:
                return
            done.put((name, call()))

    for _ in range(min(THREADS, len(left))):
        threading.Thread(target=run, name="side by side", daemon=True).start()
    while left:
        try:
            name, found = done.get(timeout=max(end - time.monotonic(), 0.0))
        except queue.Empty:
            yield from ((name, None) for name in left)
            return
        left.discard(name)
        yield name, found
