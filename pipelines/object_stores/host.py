"""One host: whose turn it is to ask it, and whether it answers at all."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable

from pipelines.object_stores.answers import Wanted
from pipelines.object_stores.pool import Pool
from pipelines.object_stores.rate import Rate

_IDLE_S = 180.0  # who asks again for something does so sooner; after longer, nobody has asked


class Host:
    """Lets requests go at the host's rate, the oldest first, and notes how they fare.

    Args:
        concurrency: requests that may be in flight.
        clock: seconds.

    Attributes:
        slots: to be taken by who waits for a turn, so that no turn is taken long before its use.
        proven: what it has been asked for with success, to ask it again whether it lives.
    """

    def __init__(self, name: str, concurrency: int, clock: Callable[[], float]) -> None:
        self.name, self._clock = name, clock
        self.slots = Pool(concurrency)
        self.proven: Wanted | None = None
        self._rate = Rate()
        self._waiting: list[tuple[int, asyncio.Future[int]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._answered = -math.inf  # when it last did what it was asked
        self._failing: float | None = None  # since when it has not
        self._failed = -math.inf  # when it last did not

    async def turn(self, order: int) -> int:
        """Waits until a request may be sent; returns what its answer is told with."""
        now = self._clock()
        if not self._waiting and self._rate.wait_s(now) <= 0:
            return self._rate.sent(now)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, future))
        self._let_go()
        return await future

    def answered(self, number: int) -> None:
        """Notes that it did what it was asked."""
        self._answered, self._failing = self._clock(), None
        self._rate.delivered(number, self._answered)
        self._let_go()

    def refused(self, number: int, asked_s: float) -> None:
        """Notes that it asked to be asked less."""
        self._rate.refused(number, self._clock(), asked_s)
        self.failed()
        self._let_go()

    def failed(self) -> None:
        """Notes that it did not do what it was asked."""
        now = self._clock()
        if self._failing is None or now - self._failed > _IDLE_S:
            self._failing = now
        self._failed = now

    def give_up(self, error: Exception) -> None:
        """Lets all who wait for a turn hear that it is not worth waiting for."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def answered_since(self, when: float) -> bool:
        """Tells whether it has done since then what it was asked."""
        return self._answered >= when

    @property
    def silent_s(self) -> float:
        """Seconds for which it has done nothing that it was asked."""
        return 0.0 if self._failing is None else self._clock() - self._failing

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            now = self._clock()
            wait_s = self._rate.wait_s(now)
            if wait_s > 0:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_go)
                return
            _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(self._rate.sent(now))
