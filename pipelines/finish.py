"""`clip-beam finish`: closes a run whose launcher is gone, or that was done in parts.

It starts no job. It makes sure that each unit of the run is whole, and then writes what `embed`
writes at its end: OUTPUT/run.json and OUTPUT/_SUCCESS.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.command_line import exits
from pipelines.command_line.flag_names import note_flags
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import place
from pipelines.ownership.closing import finish_planned, judged
from pipelines.ownership.lock import RunLock
from pipelines.ownership.planned import planned_run
from pipelines.ownership.record import count_lines
from pipelines.storage.redaction import redact


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    from pipelines.output.unit_writer import ConservationError

    output = parser().parse_args(argv).output
    note_flags(["--max_reject_fraction", "--overwrite"])  # of `embed`, whose run this is about
    lock = RunLock(output)
    try:
        planned = planned_run(output)
        lock.acquire()
        totals = finish_planned(output, planned)
    except ConservationError as error:
        return exits.fail("finish", str(error), exits.FAILED)
    except (ValueError, OSError) as error:
        return exits.fail("finish", str(error), exits.status_before(error))
    finally:
        lock.release()
    for line in count_lines(totals):
        print(line)
    print(f"output     {redact(output)}")
    return judged("finish", totals, output, planned.max_reject_fraction)


def parser() -> Parser:
    """Builds the command line of `clip-beam finish`."""
    own = Parser(
        prog="clip-beam finish",
        description="Close a run whose launcher is gone or that was done in parts: if all of its "
        "units are there, write run.json and _SUCCESS.",
    )
    add = group(own, "input").add_argument
    add("--output", type=place, required=True, metavar="URI", help="output of `embed`")
    return own


if __name__ == "__main__":
    exits.run(main)
