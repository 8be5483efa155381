"""`clip-beam export`: a run in the layouts of other tools, file by file, or as training shards."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from pipelines.command_line import exits
from pipelines.command_line.flag_names import in_flags
from pipelines.command_line.meter import meter
from pipelines.command_line.model_flags import add_model_name_flag
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place
from pipelines.engine.per_file import Workers, over_files, parse_with_engine
from pipelines.engine.slots.choice import add_engine_flags
from pipelines.exports.bigquery import BigQuery
from pipelines.exports.datacomp import KEYS, datacomp
from pipelines.exports.exported_run import ExportedRun, ExportError, Layout, check_needs
from pipelines.exports.layouts import ClipRetrieval, Laion, SeparateTables
from pipelines.images.trust import add_trust_flags, trust_of
from pipelines.output.overwriting import make_room
from pipelines.output.parquet import FILES_WRITTEN
from pipelines.output.scored_tables import ScoredTablesError
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag, open_whole
from pipelines.shards import export as shard_export
from pipelines.shards.formats import SHARD_FORMATS
from pipelines.shards.plan import ROWS_PER_SHARD
from pipelines.shards.work import ShardExport
from pipelines.storage import uris
from pipelines.storage.redaction import redact

LAYOUTS: Mapping[str, Callable[[ExportedRun], Layout]] = {
    "bigquery": BigQuery,
    "clip_retrieval": ClipRetrieval,
    "laion": Laion,
    "tables": SeparateTables,
}
FORMATS = ("datacomp", *LAYOUTS, *SHARD_FORMATS)
WHOLE = (
    "bigquery",
    "tables",
    *SHARD_FORMATS,
)  # take all models of a run


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, workers = parse_with_engine(parser(), argv)
    if options.format in SHARD_FORMATS:
        return _export_shards(options, workers)
    try:
        run = open_run(options)
        layout = choose_layout(run, options)
        make_room(run.output, layout.outputs, options.overwrite)
    except (ValueError, OSError) as error:
        return exits.fail("export", str(error), exits.status_before(error))
    try:
        export(run, layout, workers)
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
    add_trust_flags(group(flags, "input"))
    add_model_name_flag(flags)
    add = group(flags, "output").add_argument
    add("--output", required=True, type=place, metavar="URI", help="directory to write")
    add(
        "--format",
        required=True,
        choices=FORMATS,
        help="layout; `tables`: scores and vectors apart; `bigquery`: schemas to load by; "
        "`webdataset`, `folder`, `hf`: images and captions to train on",
    )
    add("--datacomp_key", choices=KEYS, help="DataComp's name of the model [by architecture]")
    add(
        "--rows_per_shard",
        type=int,
        metavar="N",
        help=f"rows of each shard of images [{ROWS_PER_SHARD}]",
    )
    add(
        "--reencode",
        action="store_true",
        help="write images that are no JPEG, PNG or WebP as PNG, instead of leaving them out",
    )
    add("--overwrite", action="store_true", help="remove the export that the output holds")
    add_engine_flags(group(flags, "running").add_argument)
    return flags


def open_run(options: argparse.Namespace) -> ExportedRun:
    """Finds the run and the model that is asked for.

    Raises:
        ValueError, OSError: what is wrong, in one sentence with the remedy.
    """
    _check_flags(options)
    name = options.model_name
    tables = open_whole(options.input, options.allow_incomplete)
    # DataComp has columns for two models, which a run may have by these names.
    if name or options.format not in ("datacomp", *WHOLE):
        tables = tables.of_model(name)
    return ExportedRun(tables, uris.normalize(options.output))


def _check_flags(options: argparse.Namespace) -> None:
    is_shards = options.format in SHARD_FORMATS
    for flag, is_used in (
        ("datacomp_key", options.format == "datacomp"),
        ("rows_per_shard", is_shards),
        ("reencode", is_shards),
    ):
        if getattr(options, flag) and not is_used:
            raise ExportError(f"`--{flag}` does nothing with `--format {options.format}`; drop it")
    if options.model_name and options.format in WHOLE:
        raise ExportError(
            f"`--format {options.format}` takes all models of a run; drop `--model_name`"
        )
    if options.rows_per_shard is not None and options.rows_per_shard < 1:
        raise ExportError(f"`--rows_per_shard` must be 1 or more, got {options.rows_per_shard}")


def _export_shards(options: argparse.Namespace, workers: Workers | None) -> int:
    """Writes images and captions to train on; returns the exit status."""
    try:
        run = open_run(options)
        check_needs(run.tables, ["sha256"], options.format)
        trust = trust_of(options, options.input)
        export = ShardExport(run.tables, trust, run.output, options.format, options.reencode)
        shards = shard_export.begin(
            export, options.rows_per_shard or ROWS_PER_SHARD, options.overwrite
        )
    except (ValueError, OSError) as error:
        return exits.fail("export", str(error), exits.status_before(error))
    try:
        stats = shard_export.run(export, shards, workers)
    except (ValueError, OSError) as error:
        return exits.fail("export", str(error), exits.status_of(error))
    for line in [*shard_export.summary(stats), f"output     {redact(run.output)}"]:
        print(in_flags(line))
    if stats and not any(one.successes for one in stats):
        return exits.fail("export", "no image of the run was written; see above", exits.FAILED)
    return 0


def choose_layout(run: ExportedRun, options: argparse.Namespace) -> Layout:
    """Returns the layout, after its own checks of the run.

    Raises:
        ExportError: if the run has not what the layout needs.
    """
    if options.format == "datacomp":
        return datacomp(run, options.datacomp_key)
    return LAYOUTS[options.format](run)


def export(run: ExportedRun, layout: Layout, options: Workers | None = None) -> None:
    """Writes every file, and prints a summary."""
    files = run.tables.embeddings
    rows = run.tables.rows_of(files)
    layout.start()
    written = over_files(layout.write, files, options, FILES_WRITTEN)
    with meter(rows, "rows") as count:
        for uri, _ in zip(files, written, strict=True):
            count(run.tables.rows_of([uri]))
    print(f"rows       {rows}")
    for line in layout.finish():
        print(line)
    print(f"output     {redact(run.output)}")


if __name__ == "__main__":
    exits.run(main)
