"""Hands out a number of something, the oldest who asks first."""

from __future__ import annotations

import asyncio
import heapq
import threading


class Pool:
    """So many requests, or so many bytes, that may be under way.

    Whoever asks for more than there is gets it once nobody else has any. On the loop is asked, from
    any thread given back.

    Attributes:
        used: what is under way.
    """

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def take(self, size: int, order: int) -> None:
        """Takes so many, and waits for them behind whoever has a smaller `order`."""
        with self._lock:
            if not self._waiting and self._fits(size):
                self.used += size
                return
            self._loop = asyncio.get_running_loop()
            future = self._loop.create_future()
            heapq.heappush(self._waiting, (order, size, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(size)
            raise

    def add(self, size: int) -> None:
        """Takes so many at once, however many there are."""
        with self._lock:
            self.used += size

    def give_back(self, size: int) -> None:
        """Gives so many back."""
        with self._lock:
            self.used -= size
            waits = bool(self._waiting)
        if waits and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hand_out)

    def _fits(self, size: int) -> bool:
        return self.used + size <= self.total or not self.used

    def _hand_out(self) -> None:
        with self._lock:
            while self._waiting:
                _, size, future = self._waiting[0]
                if not future.done():
                    if not self._fits(size):
                        return
                    self.used += size
                    future.set_result(None)
                heapq.heappop(self._waiting)
