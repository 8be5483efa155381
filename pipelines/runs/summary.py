"""What `embed` prints when it is done about where the time went."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.engine.cores import Threads

# What the bundles do in turn, each in a thread of its own.
IN_TURN = {
    "start": "start",
    "read": "read",
    "wait": "waiting for images",
    "encode": "encode",
    "write": "write",
}
# And what other threads do meanwhile.
THREADS = ("fetch", "decode", "tokenize")


def threads_line(threads: Threads, slots: int) -> str:
    """Returns the line about cores and threads.

    Args:
        threads: of each slot, or of this process where it is the only one.
    """
    return f"threads    {threads}" + (f" for each of {slots} slots" if slots > 1 else "")


def time_lines(seconds: Mapping[str, float], rows: int) -> list[str]:
    """Returns the lines about time.

    Args:
        seconds: of the stages, summed over all workers.
        rows: embedded or rejected in this run.
    """
    wall = seconds["wall"]
    lines = [f"time       {wall:.1f} s, {rows / wall:.1f} rows/s"]
    if "encode" in seconds:
        parts = [f"{label} {seconds.get(n, 0.0):.1f} s" for n, label in IN_TURN.items()]
        lines.append(f"workers    {', '.join(parts)}")
    if "decode" in seconds:
        parts = [f"{name} {seconds.get(name, 0.0):.1f} s" for name in THREADS]
        lines.append(f"meanwhile  {', '.join(parts)}")
    return lines
