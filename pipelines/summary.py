"""What `embed` prints when it is done: counts, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.cores import Threads
from pipelines.run_record import Totals

# In one thread these follow each other, so their sum is the run's time.
IN_TURN = {
    "start": "start",
    "read": "read",
    "wait": "waiting for pictures",
    "encode": "encode",
    "write": "write",
    "beam": "Beam",
}
# And these go on meanwhile.
THREADS = ("fetch", "decode", "tokenize")


def shares_of_wall(seconds: Mapping[str, float]) -> dict[str, float]:
    """Adds what is left of a local run's time to the seconds of its stages, as `beam`."""
    known = sum(seconds.get(name, 0.0) for name in IN_TURN if name != "beam")
    return {**seconds, "beam": max(seconds["wall"] - known, 0.0)}


def count_lines(totals: Totals) -> list[str]:
    """Returns the lines about rows."""
    reasons = ", ".join(f"{name} {count}" for name, count in totals.rejects.items())
    return [
        f"rows read  {totals.rows_read}",
        f"embedded   {totals.embedded}",
        f"rejected   {totals.rejected}" + (f" ({reasons})" if reasons else ""),
    ]


def threads_line(threads: Threads) -> str:
    """Returns the line about cores and threads."""
    return f"threads    {threads}"


def time_lines(seconds: Mapping[str, float], rows: int) -> list[str]:
    """Returns the lines about time.

    Args:
        seconds: of the stages; with `beam` if the run was on one machine.
        rows: embedded or rejected in this run.
    """
    wall = seconds["wall"]
    lines = [f"time       {wall:.1f} s, {rows / wall:.1f} rows/s"]
    if "beam" in seconds:
        parts = [f"{label} {seconds.get(n, 0.0) / wall:.0%}" for n, label in IN_TURN.items()]
        lines.append(f"of it      {', '.join(parts)}")
    elif "encode" in seconds:
        parts = [f"{n} {seconds.get(n, 0.0):.1f} s" for n in ("read", "wait", "encode", "write")]
        lines.append(f"workers    {', '.join(parts)}, over all of them")
    if "decode" in seconds:
        parts = [f"{name} {seconds.get(name, 0.0):.1f} s" for name in THREADS]
        lines.append(f"meanwhile  {', '.join(parts)}")
    return lines
