"""`clip-beam export`: the output of `embed` in the layouts of other tools, file by file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.command_line import exits
from pipelines.command_line.meter import meter
from pipelines.command_line.model_flags import add_model_name_flag
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place
from pipelines.engine.per_file import over_files, parse_with_engine
from pipelines.exports.bigquery import BigQuery
from pipelines.exports.datacomp import KEYS, datacomp
from pipelines.exports.exported_run import ExportedRun, ExportError, Layout
from pipelines.exports.layouts import ClipRetrieval, Laion, SeparateTables
from pipelines.output.overwriting import make_room
from pipelines.output.scored_tables import ScoredTablesError, row_count
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag, open_whole
from pipelines.storage import uris
from pipelines.storage.redaction import redact

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

LAYOUTS: Mapping[str, Callable[[ExportedRun], Layout]] = {
    "bigquery": BigQuery,
    "clip_retrieval": ClipRetrieval,
    "laion": Laion,
    "tables": SeparateTables,
}
FORMATS = ("datacomp", *LAYOUTS)
WHOLE = ("bigquery", "tables")  # layouts that take a run as it is, with all its models


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, beam_options = parse_with_engine(parser(), argv)
    try:
        run = open_run(options)
        layout = choose_layout(run, options)
        make_room(run.output, layout.outputs, options.overwrite)
    except (ValueError, OSError) as error:
        return exits.fail("export", str(error), exits.status_before(error))
    try:
        export(run, layout, beam_options)
    except (ScoredTablesError, OSError) as error:
        return exits.fail("export", str(error), exits.status_of(error))
    return 0


def parser() -> Parser:
    """Builds the command line of `clip-beam export`."""
    flags = Parser(
        prog="clip-beam export",
        description="Write a run in another tool's layout.",
        epilog=BEAM_FLAGS,
    )
    add_input_flag(group(flags, "input"))
    add_incomplete_flag(group(flags, "input"))
    add_model_name_flag(flags)
    add = group(flags, "output").add_argument
    add("--output", required=True, type=place, metavar="URI", help="directory to write")
    add(
        "--format",
        required=True,
        choices=FORMATS,
        help="layout; `tables`: scores and vectors apart; `bigquery`: schemas to load by",
    )
    add("--datacomp_key", choices=KEYS, help="DataComp's name of the model [by architecture]")
    add("--overwrite", action="store_true", help="remove the export that the output holds")
    return flags


def open_run(options: argparse.Namespace) -> ExportedRun:
    """Finds the run and the model that is asked for.

    Raises:
        ValueError, OSError: what is wrong, in one sentence with the remedy.
    """
    if options.datacomp_key and options.format != "datacomp":
        raise ExportError(
            f"`--datacomp_key` does nothing with `--format {options.format}`; drop it"
        )
    name = options.model_name
    if name and options.format in WHOLE:
        raise ExportError(
            f"`--format {options.format}` takes all models of a run; drop `--model_name`"
        )
    tables = open_whole(options.input, options.allow_incomplete)
    # DataComp has columns for two models, which a run may have by these names.
    if name or options.format not in ("datacomp", *WHOLE):
        tables = tables.of_model(name)
    return ExportedRun(tables, uris.normalize(options.output))


def choose_layout(run: ExportedRun, options: argparse.Namespace) -> Layout:
    """Returns the layout, after its own checks of the run.

    Raises:
        ExportError: if the run has not what the layout needs.
    """
    if options.format == "datacomp":
        return datacomp(run, options.datacomp_key)
    return LAYOUTS[options.format](run)


def export(run: ExportedRun, layout: Layout, options: PipelineOptions | None = None) -> None:
    """Writes every file, and prints a summary."""
    files = run.tables.embeddings
    rows = row_count(files)
    layout.start()
    with meter(rows, "rows") as count:
        for uri, _ in zip(files, over_files(layout.write, files, options), strict=True):
            count(row_count([uri]))
    print(f"rows       {rows}")
    for line in layout.finish():
        print(line)
    print(f"output     {redact(run.output)}")


if __name__ == "__main__":
    exits.run(main)
