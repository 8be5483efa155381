"""Settles near the rate of requests that a host allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.object_stores.retry_after import MOST_ASKED_S

EPOCH_S = 1.0  # a rate is judged by the answers to what was sent within about so long
PROBES_A_SECOND = 4.0  # while the host delivers nothing
_EARLY = 10  # refusals that outnumber what was delivered and tell before the epoch is over
_NOTICED = 0.02  # a share of refusals that is more than chance
_ENOUGH = 10  # answers, of which something can be told
_GROWTH = 0.04  # of a rate beyond where refusals began; it doubles with each step that goes well
_MOST_GROWTH = 0.5
_MARGIN = 0.9
_LEAST = 1.0
_SAME = 0.75  # of a share of refusals is about the same share
_MOST_EXPECTED = 0.8
_REST_S = 0.1  # after a fall, in which the host gets over what it was sent before


@dataclass
class _Epoch:
    """What became of the requests that were sent at one rate."""

    number: int
    since: float | None = None
    sent: int = 0
    delivered: int = 0
    refused: int = 0

    @property
    def share(self) -> float:
        """The share of answers that were refusals."""
        return self.refused / max(self.delivered + self.refused, 1)


class Rate:
    """Requests a second to one host.

    There is no limit until the host refuses. Then the rate falls to what was delivered, and comes
    back to where refusals began in steps, half of the way each. If as many are refused at the lower
    rate, refusals do not depend on it, and there is no limit again as long as they stay as many.
    Where nothing is delivered, a few probes a second go out until one is answered.

    Attributes:
        limit: requests a second; infinite where there is none.
    """

    def __init__(self) -> None:
        self.limit = math.inf
        self._epoch = _Epoch(0)
        self._ceiling = math.inf  # the rate at which refusals began
        self._good = 0.0  # the last rate at which they did not
        self._growth = _GROWTH
        self._expected = 0.0  # the share that is refused at any rate
        self._falls: list[tuple[float, float]] = []  # in a row: each from what rate, at what share
        self._before_silence: float | None = None
        self._due = 0.0

    def wait_s(self, now: float) -> float:
        """Returns seconds until the next request may be sent; 0 for at once."""
        return 0.0 if self.limit == math.inf else max(self._due - now, 0.0)

    def sent(self, now: float) -> int:
        """Notes that a request is sent; its answer is told with the number that this returns."""
        epoch = self._epoch
        epoch.sent += 1
        if epoch.since is None:
            epoch.since = now
        if self.limit != math.inf:
            slack = 0.02  # timers are late, and what was late is made up for
            self._due = max(self._due, now - slack) + 1 / self.limit
        return epoch.number

    def delivered(self, number: int, now: float) -> None:
        """Notes that the host did what it was asked; that there is no such object is an answer."""
        if self._before_silence is not None:
            self.limit, self._before_silence = self._before_silence, None
            self._due = now
            self._begin()
        elif number == self._epoch.number:
            self._epoch.delivered += 1
            self._judge(now)

    def refused(self, number: int, now: float, asked_s: float = 0.0) -> None:
        """Notes that the host asked to be asked less.

        Args:
            asked_s: what it said how long to wait; heeded while nothing is delivered.
        """
        if number == self._epoch.number:
            self._epoch.refused += 1
            self._judge(now)
        if self._before_silence is not None and asked_s:
            self._due = max(self._due, now + min(asked_s, MOST_ASKED_S))

    def _judge(self, now: float) -> None:
        epoch = self._epoch
        elapsed = now - (epoch.since or 0.0)
        # Where a little less went well, refusals are of the rate, and each may use up a request.
        least = epoch.delivered * (_NOTICED if self._good and not self._expected else 1.0)
        flooded = epoch.refused >= _EARLY and epoch.refused > least
        answers = epoch.delivered + epoch.refused
        over = elapsed >= EPOCH_S and answers >= _ENOUGH
        if self._before_silence is not None or not (over or flooded):
            return
        noise = 2 * math.sqrt(self._expected * (1 - self._expected) / answers)
        if epoch.share <= 1.2 * self._expected + noise + _NOTICED:
            self._rise(epoch, elapsed)
        else:
            self._fall(epoch, elapsed)
            self._due = now + _REST_S
        self._begin()

    def _rise(self, epoch: _Epoch, elapsed: float) -> None:
        self._falls = []
        if epoch.share < self._expected / 2:
            self._expected = epoch.share
        if self.limit == math.inf or epoch.sent < self.limit * elapsed / 2:
            return  # nobody asked for more
        self._good = self.limit
        if self.limit < 0.95 * self._ceiling:
            self.limit += (self._ceiling - self.limit) / 2
        else:
            self.limit = self._ceiling = self.limit * (1 + self._growth)
            self._growth = min(2 * self._growth, _MOST_GROWTH)

    def _fall(self, epoch: _Epoch, elapsed: float) -> None:
        self._growth, answered = _GROWTH, max(elapsed, EPOCH_S / 2)
        offered = min(self.limit, epoch.sent / answered)
        if not epoch.delivered:
            self._before_silence = self._falls[0][0] if self._falls else self.limit
            self.limit, self._falls = PROBES_A_SECOND, []
        elif self._is_independent(epoch.share):
            self._expected = epoch.share
            self.limit = self._ceiling = math.inf
            self._falls = []
        else:
            to = epoch.delivered / answered
            if self._good < self.limit < math.inf:
                to = max(to, _MARGIN * self._good)
            self._falls.append((self.limit, epoch.share))
            self.limit, self._ceiling = max(min(to, _MARGIN * self.limit), _LEAST), offered
            self._good = 0.0

    def _is_independent(self, share: float) -> bool:
        """Tells whether the rate fell twice and the refusals did not; the first time, what had been
        sent at once may have been at fault."""
        if len(self._falls) < 2 or share > _MOST_EXPECTED:
            return False
        (_, first), (_, second) = self._falls[-2:]
        return share >= _SAME * second and second >= _SAME * first

    def _begin(self) -> None:
        self._epoch = _Epoch(self._epoch.number + 1)
