"""Tells faults that pass from those that stay, and tries again after the former."""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipelines.object_stores.retry_after import wait_s

T = TypeVar("T")

_TRANSIENT_CODES = {408, 429}
# Faults of a connection by the names that Python, requests, aiohttp, botocore, google-auth and
# gcsfs give them: those packages are too many, and some too slow, to import for their names.
_TRANSIENT_NAMES = {
    "ChecksumError",
    "ChunkedEncodingError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "FlexibleChecksumError",
    "HTTPClientError",
    "IncompleteRead",
    "RemoteDisconnected",
    "ResponseParserError",
    "ResponseStreamingError",
    "Timeout",
    "TimeoutError",
    "TransportError",
}
# s3fs says EBUSY and EIO for 503 and 500, EREMOTEIO for an internal error; the last two are too
# many open files, here.
_TRANSIENT_ERRNOS = {
    errno.EBUSY,
    errno.EIO,
    getattr(errno, "EREMOTEIO", errno.EIO),
    errno.ESTALE,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EMFILE,
    errno.ENFILE,
}


@dataclass(frozen=True)
class RetryPolicy:
    """How long to try.

    Attributes:
        attempts: how often a transient fault is tried, in all.
        backoff_s: the longest wait before the second attempt; it doubles with each further one.
        max_seconds: no further attempt begins after this time.
    """

    attempts: int = 4
    backoff_s: float = 0.5
    max_seconds: float = 120.0


class AttemptsFailed(Exception):
    """A transient fault that outlasted all attempts; the last one is the cause."""


def with_retries(
    call: Callable[[], T],
    policy: RetryPolicy,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Calls until it works, at growing random intervals.

    Args:
        sleep: waits so many seconds, by `clock`.

    Raises:
        AttemptsFailed: from the last transient fault.
        Exception: whatever `call` raises that is not transient.
    """
    began = clock()
    for attempt in range(1, policy.attempts + 1):
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - each store has error types of its own
            if not is_transient(error):
                raise
            seconds = wait_s(policy.backoff_s * 2 ** (attempt - 1))
            out_of_time = clock() - began + seconds > policy.max_seconds
            if attempt == policy.attempts or out_of_time:
                text = f"{attempt} attempts failed: {describe(error)}"
                raise AttemptsFailed(text) from error
            sleep(seconds)
    raise AssertionError("`attempts` must be positive")


def is_transient(error: Exception) -> bool:
    """Tells whether a fault may pass: 408, 429, 5xx, a broken, stalled or short answer."""
    code = http_code(error)
    if code is not None:
        return code in _TRANSIENT_CODES or code >= 500
    if any(kind.__name__ in _TRANSIENT_NAMES for kind in type(error).__mro__):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS


def http_code(error: Exception) -> int | None:
    """Finds the HTTP status that gcsfs, aiohttp and botocore carry under names of their own."""
    for name in ("status", "code", "status_code"):
        code = str(getattr(error, name, None))  # gcsfs may pass on the text of the answer
        if re.fullmatch("[1-5][0-9]{2}", code):
            return int(code)
    for cause in (error, error.__cause__):  # s3fs keeps botocore's error as the cause
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None


def describe(error: BaseException) -> str:
    """Names an error with its class, which some libraries' messages do without."""
    return f"{type(error).__name__}: {error}"
