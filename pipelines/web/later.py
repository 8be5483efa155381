"""Puts back what failed until nothing else is under way, and bounds the time of all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


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


class Together:
    """A time for many things together, which goes on while any of them is under way.

    Args:
        seconds: infinite for no bound.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._left_s, self._clock = seconds, clock
        self._at_work, self._since = 0, 0.0

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns what the work returns.

        Raises:
            TimeoutError: if it is not done when the time of all is over.
        """
        if self._left_s == math.inf:
            return await work
        now = self._clock()
        if not self._at_work:
            self._since = now
        self._at_work += 1
        try:
            return await asyncio.wait_for(work, self._left_s - (now - self._since))
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._left_s -= self._clock() - self._since
