"""What `embed` prints when it is done about where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.engine.cores import Threads
from pipelines.output.layout import REJECTS, unit_file
from pipelines.output.scored_tables import iterate_batches
from pipelines.records import UnitResult
from pipelines.web.reject_counts import WebRejects

_COLUMNS = ("stage", "url", "detail")
_READERS = 16
_MAX_FILES = 1000  # of rejects that a summary looks into

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


def web_lines(output: str, results: Sequence[UnitResult]) -> list[str]:
    """Returns the lines about images of the web that were rejected, by host and by answer."""
    files = [unit_file(output, REJECTS, one.unit_id) for one in results if one.rejects]
    counts = WebRejects()
    with ThreadPoolExecutor(_READERS) as readers:
        for part in readers.map(_web_rejects_of, files[:_MAX_FILES]):
            counts.merge(part)
    lines = counts.lines()
    if lines and len(files) > _MAX_FILES:
        lines[0] += f" (in {_MAX_FILES} of {len(files)} files of rejects; `report` counts all)"
    return lines


def _web_rejects_of(uri: str) -> WebRejects:
    counts = WebRejects()
    for batch in iterate_batches(uri, _COLUMNS):
        counts.add(*(batch.column(name).to_pylist() for name in _COLUMNS))
    return counts


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
