"""What is known of one host: how often it may be asked, and whether it answers at all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from pipelines.object_stores.host import Host

CONNECTIONS = 32  # to one host
_BEFORE_AN_ANSWER = 4  # of them, until it has answered
_LOST = 2  # in a row, and its other images are put back
_LOST_THAT_ANSWERED = 8  # in a row, of a host that has answered before


class Site(Host):
    """A host of the web.

    Args:
        concurrency: connections at most.
        clock: seconds.

    Attributes:
        probing: held by the one that finds out whether a lost host is back.
    """

    def __init__(self, name: str, concurrency: int, clock: Callable[[], float]) -> None:
        self._connections = min(CONNECTIONS, concurrency)
        super().__init__(name, min(_BEFORE_AN_ANSWER, self._connections), clock)
        self.probing = asyncio.Lock()
        self._silences, self._has_answered = 0, False
        self._gone_until, self._gone_said = -math.inf, ""

    @property
    def is_lost(self) -> bool:
        """Whether it has been silent several times in a row."""
        return self._silences >= (_LOST_THAT_ANSWERED if self._has_answered else _LOST)

    @property
    def gone(self) -> str | None:
        """What was wrong when it was last tried in vain; None if it may be asked."""
        return self._gone_said if self._clock() < self._gone_until else None

    def answered(self, number: int) -> None:
        """Notes that it did what it was asked."""
        self.heard()
        super().answered(number)

    def heard(self) -> None:
        """Notes that it answered, whatever it was."""
        self._silences, self._has_answered = 0, True
        self._gone_until = -math.inf
        self.slots.total = self._connections

    def silent(self, said: str, last_try: bool, gone_s: float) -> None:
        """Notes that it took no connection, said nothing, or did not end what it said.

        Args:
            last_try: whether it was the one at the end; if it is lost then, it is gone.
            gone_s: seconds for which it is not asked again.
        """
        self.failed()
        self._silences += 1
        if last_try and self.is_lost:
            self._gone_until, self._gone_said = self._clock() + gone_s, said
