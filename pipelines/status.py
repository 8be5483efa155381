"""`clip-beam status`: how the run of an output stands, told from anywhere that can read it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.command_line import exits
from pipelines.command_line.flag_names import note_flags
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import place
from pipelines.output.layout import SUCCESS
from pipelines.ownership import record
from pipelines.ownership.finished import own_units
from pipelines.ownership.lock import FoundLock, found_locks
from pipelines.ownership.planned import PlannedRun, planned_run
from pipelines.storage import listing, uris
from pipelines.storage.redaction import redact


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0 for a run that is done or at work, else 1."""
    output = parser().parse_args(argv).output
    note_flags(["--overwrite"])  # of `embed`, whose run this is about
    try:
        planned = planned_run(output)
        locks = found_locks(output)
        is_done = listing.exists(uris.join(output, SUCCESS))
        for line in _lines(output, planned, locks, is_done):
            print(line)
    except (ValueError, OSError) as error:
        return exits.fail("status", str(error), exits.status_before(error))
    return 0 if is_done or any(lock.lives for lock in locks) else exits.FAILED


def parser() -> Parser:
    """Builds the command line of `clip-beam status`."""
    own = Parser(prog="clip-beam status", description="Say how the run of an output stands.")
    add = group(own, "input").add_argument
    add("--output", type=place, required=True, metavar="URI", help="output of `embed`")
    return own


def _lines(
    output: str, planned: PlannedRun, locks: Sequence[FoundLock], is_done: bool
) -> Iterator[str]:
    parts = f", in {planned.parts} parts" if planned.parts > 1 else ""
    job = f", job {planned.job}" if planned.job else ""
    yield f"run        {planned.run} on {planned.engine}{job}{parts}"
    whole = own_units(output, planned)
    totals = record.total(unit.result for unit in whole)
    of_rows = f" of {planned.rows}" if planned.rows is not None else ""
    yield f"units      {totals.units} of {len(planned.units)} are whole"
    yield f"rows       {totals.rows_read}{of_rows} in these"
    yield from record.count_lines(totals)[1:]
    for lock in locks:
        yield from _of_launcher(lock)
    yield f"state      {_state(planned, totals, locks, is_done)}"
    yield f"output     {redact(output)}"


def _of_launcher(lock: FoundLock) -> Iterator[str]:
    """Says what a launcher has written into its lock."""
    found = lock.content
    name = f"part {lock.part}" if lock.part else "launcher"
    seen = time.time() - float(found.get("seen", 0))
    state = f"was heard of {max(seen, 0):.0f} s ago" if lock.lives else "is gone"
    yield f"{name:<10} process {found.get('process')} on {found.get('host')} {state}"
    if lock.lives and "rows" in found:
        yield f"           {_progress(found)}"
        yield from (f"           {line}" for line in found.get("slots", ()))


def _progress(found: dict[str, Any]) -> str:
    rows, of_all, rate = found["rows"], found.get("rows_of_all"), found.get("rows_per_s") or 0
    left = f", {(of_all - rows) / rate:.0f} s left" if of_all and rate else ""
    return f"{rows}{f' of {of_all}' if of_all else ''} rows, {rate} rows/s{left}"


def _state(
    planned: PlannedRun, totals: record.Totals, locks: Sequence[FoundLock], is_done: bool
) -> str:
    if is_done:
        return "done"
    if any(lock.lives for lock in locks):
        return "at work"
    if totals.units == len(planned.units):
        return "every unit is there; `clip-beam finish` closes the run"
    return "no launcher is at work; run `clip-beam embed` again as before to complete it"


if __name__ == "__main__":
    exits.run(main)
