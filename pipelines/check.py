"""`clip-beam check`: says before a run what would go wrong in it, and how long it would take.

Takes the flags of `embed`, plans the manifest, loads the model, tries the output, and embeds a
sample of the rows in this process. Prints what it found, then a line for each problem with its
remedy. Exit status: 0 when nothing would go wrong, 1 when something would, 2 on wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.command_line import exits
from pipelines.command_line.flag_names import in_flags
from pipelines.command_line.parser import Parser, group
from pipelines.storage.redaction import scrub

SAMPLE_ROWS = 200


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    from pipelines.engine.beam_options import reach_job_service
    from pipelines.runs import options as flags
    from pipelines.runs.preflight import Findings, check, number

    argv = sys.argv[1:] if argv is None else argv
    own = parser()
    try:
        config, options = flags.parse(argv, own)
        sample = own.parse_known_args(argv)[0].sample
        if sample < 1:
            raise ValueError(f"`--sample` must be a positive int, got {sample}")
    except ValueError as error:
        return exits.fail("check", str(error), exits.WRONG_USAGE)
    findings = Findings()
    findings.attempt(lambda: reach_job_service(options))
    check(config, sample, findings)
    print()
    for problem in findings.problems:
        print(f"problem    {scrub(in_flags(problem))}")
    count = len(findings.problems)
    print(f"{number(count, 'problem')} found")
    return 1 if findings.problems else 0


def parser() -> Parser:
    """Builds the command line of `clip-beam check`: that of `embed` and a flag more."""
    from pipelines.runs import options as flags

    own = flags.parser("check", "Say what would go wrong in `embed`, and how long it would take.")
    group(own, "running").add_argument(
        "--sample",
        type=int,
        default=SAMPLE_ROWS,
        metavar="N",
        help=f"rows to try [{SAMPLE_ROWS}]",
    )
    return own


if __name__ == "__main__":
    exits.run(main)
