"""Keeps credentials out of what people and files get to see: messages, logs, records of a run."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

MASK = "…"
# Addresses of objects differ from run to run.
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
# What a message of a library may carry that must not reach the output: object addresses, user
# names and passwords, query strings, signed or not, and parts of them.
_SECRETS = re.compile(
    rf"{ADDRESS.pattern}"
    r"|(?<=://)[^/\s'\"]*@"
    r"|(?:\?|%3[Ff])[^\s'\"]+"
    r"|(?P<name>(?i:sig|token|secret|password|signature|credential)(?:=|%3[Dd]))[^&\s'\"]+"
)
# `container@account` (abfs) is not secret; `user:password@host` is.
_PASSWORD = re.compile(r"(?<=://)[^/@:\s]*:[^/\s]*@")
_QUERY_SCHEMES = ("http://", "https://", "abfs://", "abfss://", "az://", "wasb://", "wasbs://")
_SECRET_NAMES = re.compile(
    r"SECRET|PASSWORD|PASSWD|TOKEN|SAS|(ACCOUNT|STORAGE|PRIVATE|API)_?KEY|CONNECTION_STRING"
)
_MIN_SECRET = 8  # shorter values, such as `anon` and `true`, are words


def scrub(message: str) -> str:
    """Takes addresses of objects, credentials and query strings out of a message."""
    for secret in _environment_secrets():
        message = message.replace(secret, MASK)
    return _SECRETS.sub(lambda found: (found["name"] or "") + MASK, message)


def redact(uri: str) -> str:
    """Takes user name, password and query string out of a URI, and leaves the rest readable."""
    uri = _PASSWORD.sub(f"{MASK}@", uri)
    if uri.lower().startswith(_QUERY_SCHEMES) and "?" in uri:
        return uri.partition("?")[0] + f"?{MASK}"
    return uri


def redacted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Takes credentials out of the URIs among options, which may be lists or have names."""

    def clean(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [clean(one) for one in value]
        if isinstance(value, Mapping):
            return redacted(value)
        return redact(value) if isinstance(value, str) else value

    return {name: clean(value) for name, value in options.items()}


class ScrubbingFormatter(logging.Formatter):
    """A log formatter whose lines, tracebacks included, hold no credentials."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub(super().format(record))


def start_logging() -> None:
    """Logs warnings to stderr, and scrubs them and what an uncaught exception prints.

    For a process that is a command's own.
    """
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(ScrubbingFormatter(logging.BASIC_FORMAT))
    # It logs each 403 with a traceback, and raises it besides.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    sys.excepthook = _print_scrubbed
    threading.excepthook = _print_scrubbed_of_thread
    sys.unraisablehook = _print_scrubbed_unraisable


def own_process() -> None:
    """Does what `start_logging` does, and scrubs tracebacks that libraries turn into text.

    It is for processes that belong to a command, or to a worker of one: Beam prints such text, and
    sends it to the runner.
    """
    start_logging()
    for name in ("format_exc", "format_exception"):
        function = getattr(traceback, name)
        if not hasattr(function, "__wrapped__"):
            setattr(traceback, name, _scrubbed(function))


def _scrubbed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        text = function(*args, **kwargs)
        return scrub(text) if isinstance(text, str) else [scrub(line) for line in text]

    return call


def _print_scrubbed(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    print(scrub("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _print_scrubbed_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit:
        _print_scrubbed(found.exc_type, found.exc_value, found.exc_traceback)


def _print_scrubbed_unraisable(found: sys.UnraisableHookArgs) -> None:
    _print_scrubbed(found.exc_type, found.exc_value, found.exc_traceback)


def _environment_secrets() -> list[str]:
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= _MIN_SECRET and _SECRET_NAMES.search(name.upper())
    ]
