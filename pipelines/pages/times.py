"""What the report says of time: how long the stages of a run took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.runs.summary import IN_TURN, THREADS


def bars(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Returns what the last call of `embed` did in turn, and what its threads did meanwhile."""
    if "wall" not in seconds:
        return []
    in_turn = {label: seconds[name] for name, label in IN_TURN.items() if name in seconds}
    meanwhile = {name: seconds[name] for name in THREADS if name in seconds}
    note = (
        f"The last call of embed took {duration(seconds['wall'])}. "
        "These are sums over all of its workers."
    )
    most = max([*in_turn.values(), *meanwhile.values()], default=0) or 1
    return [
        {"note": note, "rows": _bars(in_turn, most)},
        {"note": "In threads, meanwhile:", "rows": _bars(meanwhile, most)},
    ]


def _bars(seconds: Mapping[str, float], most: float) -> list[dict[str, Any]]:
    return [{"name": n, "value": duration(s), "share": s / most} for n, s in seconds.items()]


def duration(seconds: float) -> str:
    """Returns a time as people say it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
