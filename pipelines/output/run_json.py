"""Reads run.json, of which nothing is believed that has not the form that `embed` gives it.

And what is said of a run that cannot be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pipelines.storage import reading

MAX_RUN_JSON_BYTES = 16 << 20
MEND = "remove it and run `embed` again"  # of a file of a run that is damaged


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


def chain_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns what run.json says of the filters that a run came through, the first one first."""
    chain = []
    while "kept_from" in record:
        record = record["kept_from"]
        chain.append(record)
    return chain[::-1]


def steps_of(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Returns the conditions of all filters that a run came through, and the rows after each."""
    steps = [step for part in chain_of(record) for step in part["steps"]]
    return [(step["condition"], step["rows"]) for step in steps]


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
    return _problem_of_chain(record)


def _problem_of_chain(record: Any) -> str | None:
    while "kept_from" in record:
        record = record["kept_from"]
        steps = record.get("steps") if isinstance(record, dict) else None
        if not isinstance(steps, list) or not all(map(_is_step, steps)):
            return "expected what `filter` writes as 'kept_from'"
    return None


def _is_step(step: Any) -> bool:
    return (
        isinstance(step, dict)
        and isinstance(step.get("condition"), str)
        and type(step.get("rows")) is int
        and step["rows"] >= 0
    )


class ScoredTablesError(ValueError):
    """A directory that `embed` did not write, or a part of it that cannot be read."""


class DamagedFileError(ScoredTablesError):
    """A file of a run that cannot be read: no wrong usage, whenever it is found."""

    exit_status = 1


def damaged(uri: str, error: Exception) -> DamagedFileError:
    """Returns what is to be raised of a file, with the one advice there is."""
    reason = str(error).split("\n", 1)[0]
    return DamagedFileError(f"{uri} is damaged ({reason}); {MEND}")
