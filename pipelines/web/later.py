"""Puts back what failed until nothing else is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Later:
    """Counts who is at work, and wakes who was put back once nobody is.

    Args:
        most_s: seconds after which somebody wakes by himself.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s, self._at_work = most_s, 0
        self._waiting: set[asyncio.Future[None]] = set()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Counts as at work."""
        self._at_work += 1
        try:
            yield
        finally:
            self._left()

    async def until_quiet(self) -> None:
        """Waits until nobody is at work who does not wait so."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        self._left()
        try:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(woken, self._most_s)
        finally:
            self._waiting.discard(woken)
            self._at_work += 1

    def _left(self) -> None:
        self._at_work -= 1
        if self._at_work <= 0:
            for woken in self._waiting:
                if not woken.done():
                    woken.set_result(None)
            self._waiting.clear()
