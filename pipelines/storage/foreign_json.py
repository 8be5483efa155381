"""Reads JSON that a stranger wrote, to a depth that is the same in every release of Python."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 100  # objects and arrays within each other


class TooDeepError(ValueError):
    """JSON that is nested deeper than it is read."""

    def __init__(self) -> None:
        super().__init__(f"the json is nested more than {MAX_DEPTH} deep")


def read_json(text: str | bytes) -> Any:
    """Returns a JSON value.

    Raises:
        TooDeepError: if more than `MAX_DEPTH` objects and arrays are within each other.
        ValueError: if it is no JSON.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:  # at some hundreds or thousands, as the release has it
        raise TooDeepError from error
    if _brackets(text) > MAX_DEPTH and _is_too_deep(value):
        raise TooDeepError
    return value


def _brackets(text: str | bytes) -> int:
    """Counts what may open an object or an array, which most rows have one of."""
    if isinstance(text, bytes):
        return text.count(b"{") + text.count(b"[")
    return text.count("{") + text.count("[")


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in _parts(one)]
    return any(isinstance(one, dict | list) for one in level)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
