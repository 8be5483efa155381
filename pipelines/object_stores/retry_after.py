"""For how long to wait before the next attempt: as a server asks, and at random."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz

MOST_ASKED_S = 60.0


def wait_s(most_s: float, asked: float = 0.0) -> float:
    """Returns seconds up to the most, at random, so that many do not come back at the same moment
    (full jitter); and no less than a server asks for, which is a minute at most."""
    return max(random.uniform(0, most_s), min(asked, MOST_ASKED_S))


def asked_s(headers: Mapping[str, str], now: float | None = None) -> float:
    """Returns the seconds of `Retry-After`; 0 if it says nothing.

    It is a number of seconds or a date in one of three forms (RFC 9110, 10.2.3 and 5.6.7), which is
    counted from the answer's own `Date`, as clocks differ.

    Args:
        now: seconds since 1970 where there is no `Date`; None for this machine's clock.
    """
    asked = headers.get("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():
        return float(asked)
    until = _seconds(asked)
    if until is None:
        return 0.0
    since = _seconds(headers.get("Date", ""))
    if since is None:
        since = time.time() if now is None else now
    return max(until - since, 0.0)


def _seconds(date: str) -> float | None:
    parts = parsedate_tz(date)
    try:
        return None if parts is None else float(mktime_tz((*parts[:9], parts[9] or 0)))
    except (ValueError, OverflowError):
        return None
