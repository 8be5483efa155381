"""Reads run.json, of which nothing is believed that has not the form that `embed` gives it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pipelines.damage import damaged
from pipelines.storage import reading

MAX_RUN_JSON_BYTES = 16 << 20


def read_record(uri: str) -> Mapping[str, Any]:
    """Returns what run.json says; nothing if there is none.

    Raises:
        DamagedFileError: if it is damaged.
        OSError: as the filesystem reports it.
    """
    try:
        record = json.loads(reading.read_retried(uri, MAX_RUN_JSON_BYTES))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise damaged(uri, error) from error
    problem = _problem(record)
    if problem:
        raise damaged(uri, ValueError(problem))
    return record


def _problem(record: Any) -> str | None:
    """Says how run.json differs from the form that `embed` gives it; None if it does not."""
    if not isinstance(record, dict):
        return f"expected an object, got {type(record).__name__}"
    for name in ("counts", "options", "seconds", "versions"):
        if not isinstance(record.get(name, {}), dict):
            return f"expected an object as {name!r}, got {record[name]!r:.40}"
    numbers = [*record.get("seconds", {}).values(), record.get("counts", {}).get("rows_read", 0)]
    for value in numbers:
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            return f"expected counts and seconds of 0 or more, got {value!r:.40}"
    return None
