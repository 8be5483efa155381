"""Reads for how long a server asks to wait."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz


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
