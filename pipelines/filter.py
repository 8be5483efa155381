"""`clip-beam filter`: keeps the rows of a run that are worth training on.

OUTPUT/embeddings/<unit>.parquet   the kept rows with all their columns
OUTPUT/uids.npy                    their uids as DataComp's resharder takes them, where 32 hex
OUTPUT/run.json                    the conditions, and the rows left after each
OUTPUT/_SUCCESS                    last

What is kept is a run: every command that takes one takes it, `filter` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.command_line import exits
from pipelines.command_line.model_flags import add_model_name_flag
from pipelines.command_line.optional_packages import MissingExtraError
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place
from pipelines.curation.conditions import FilterConfig, add_condition_flags, config_of
from pipelines.curation.filtering import prepare, select
from pipelines.curation.kept_mask import Selection
from pipelines.curation.kept_rows import OUTPUTS, KeptRows, steps_here
from pipelines.curation.row_lists import useless_lists
from pipelines.curation.sql_rules import PredicateError
from pipelines.engine.per_file import parse_with_engine
from pipelines.engine.slots.choice import add_engine_flags
from pipelines.exports.derived_runs import check_output
from pipelines.output.overwriting import make_room
from pipelines.output.run_json import steps_of
from pipelines.output.scored_tables import ScoredTables, ScoredTablesError
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag
from pipelines.storage.redaction import redacted


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, workers = parse_with_engine(parser(), argv)
    try:
        config = config_of(options)
        plan = prepare(config)
        if config.output and not config.dry_run:
            check_output(plan.tables, config.output)
            make_room(config.output, OUTPUTS, config.overwrite)
    except (ValueError, OSError, MissingExtraError) as error:
        return exits.fail("filter", str(error), exits.status_before(error))
    try:
        selection = select(plan, config, workers)
        print(waterfall(plan.tables, selection))
        for line in useless_lists(selection.steps):
            print(line)
        if plan.leaves_out:
            print(f"left out   {plan.leaves_out}")
        if config.output and not config.dry_run:
            kept = KeptRows(plan.tables, selection, config.output)
            for line in kept.write(_record(config), workers):
                print(line)
    except (ScoredTablesError, PredicateError, OSError) as error:
        return exits.fail("filter", str(error), exits.status_of(error))
    return 0


def parser() -> Parser:
    """Builds the command line of `clip-beam filter`."""
    flags = Parser(
        prog="clip-beam filter",
        description="Keep rows of a run, by conditions that all have to hold.",
        epilog=BEAM_FLAGS,
    )
    add_input_flag(group(flags, "input"))
    add_incomplete_flag(group(flags, "input"))
    add_condition_flags(flags)
    add_model_name_flag(flags)
    add = group(flags, "output").add_argument
    add("--output", type=place, metavar="URI", help="directory to write")
    add("--dry_run", action="store_true", help="print what each condition leaves, write nothing")
    add("--overwrite", action="store_true", help="remove the kept rows that the output holds")
    add_engine_flags(group(flags, "running").add_argument)
    return flags


def waterfall(tables: ScoredTables, selection: Selection) -> str:
    """Returns a line for each condition, of earlier filters too: the rows that are left, and their
    share of all that were read."""
    steps = [*steps_of(tables.record), *steps_here(tables, selection)]
    total = steps[0][1]
    width = max(len("condition"), *(len(name) for name, _ in steps))
    lines = [f"{'condition':<{width}}{'rows left':>13}{'of all':>9}"]
    for name, rows in steps:
        lines.append(f"{name:<{width}}{rows:>13,}{rows / total if total else 0.0:>9.1%}")
    return "\n".join(lines)


def _record(config: FilterConfig) -> dict[str, Any]:
    own = ("output", "dry_run", "overwrite")
    return redacted({name: value for name, value in vars(config).items() if name not in own})


if __name__ == "__main__":
    exits.run(main)
