"""`clip-beam report`: one self-contained HTML page about a run of `embed`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import repeat

from pipelines.command_line import exits
from pipelines.command_line.flag_names import in_flags
from pipelines.command_line.meter import meter
from pipelines.command_line.model_flags import add_model_name_flag
from pipelines.command_line.optional_packages import MissingExtraError, require
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place
from pipelines.engine.per_file import Workers, parse_with_engine
from pipelines.engine.slots.choice import add_engine_flags
from pipelines.images.trust import Trust, add_trust_flags, trust_of
from pipelines.output.scored_tables import (
    ScoredTables,
    ScoredTablesError,
    check_columns,
    open_tables,
)
from pipelines.output.whole_runs import add_input_flag, what_is_missing
from pipelines.pages.histograms import cut_of_fraction
from pipelines.pages.plots import require_matplotlib
from pipelines.pages.report_page import Galleries, render_report
from pipelines.pages.statistics import COLUMNS, Statistics, gather
from pipelines.pages.thumbnails import Thumbnail, remedy_lines, thumbnails
from pipelines.shards.originals import source_units
from pipelines.storage import writing
from pipelines.storage.redaction import redact
from schemas.pairs import TEXTS

TOP_FRACTION = 0.3  # what LAION and DataComp style filtering keeps
THUMBNAILS = 8
MAX_THUMBNAILS = 100  # examples of each 0.001 of similarity are held in memory


@dataclass(frozen=True)
class ReportConfig:
    """Checked options of the command; the flags' names and meanings."""

    input: str
    output: str
    cut: float | None
    top_fraction: float | None
    thumbnails: int
    model_name: str | None = None
    trust: Trust = Trust()

    def __post_init__(self) -> None:
        if self.cut is not None and not -1 <= self.cut <= 1:
            raise ValueError(f"`--cut` must be a similarity between -1 and 1, got {self.cut}")
        if self.top_fraction is not None and not 0 < self.top_fraction <= 1:
            raise ValueError(
                f"`--top_fraction` must be above 0 and at most 1, got {self.top_fraction}"
            )
        if not 0 <= self.thumbnails <= MAX_THUMBNAILS:
            raise ValueError(
                f"`--thumbnails` must be between 0 and {MAX_THUMBNAILS}, got {self.thumbnails}"
            )


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, workers = parse_with_engine(parser(), argv)
    try:
        config = _config(options)
        require_extra()
        tables = open_tables(config.input, bare=True).of_model(config.model_name)
        _check(tables, config)
    except (ValueError, OSError, MissingExtraError) as error:
        return exits.fail("report", str(error), exits.status_before(error))
    try:
        lines = write_report(tables, config, workers)
    except (ScoredTablesError, OSError) as error:
        return exits.fail("report", str(error), exits.status_of(error))
    print("\n".join([*map(in_flags, lines), f"report     {redact(config.output)}"]))
    return 0


def parser() -> Parser:
    """Builds the command line of `clip-beam report`."""
    flags = Parser(
        prog="clip-beam report", description="Write an HTML page about a run.", epilog=BEAM_FLAGS
    )
    add_input_flag(group(flags, "input"))
    add_trust_flags(group(flags, "input"))
    add_model_name_flag(flags)
    output_flags = group(flags, "output")
    add = output_flags.add_argument
    add("--output", required=True, type=place, metavar="URI", help="HTML file to write")
    cut = output_flags.add_mutually_exclusive_group()
    cut.add_argument("--cut", type=float, metavar="SIMILARITY", help="threshold to look at")
    cut.add_argument(
        "--top_fraction",
        type=float,
        metavar="SHARE",
        help=f"share of the rows whose threshold to look at [{TOP_FRACTION}]",
    )
    add(
        "--thumbnails",
        type=int,
        default=THUMBNAILS,
        metavar="N",
        help=f"images of the best, the worst, and those at the cut, each [{THUMBNAILS}]",
    )
    add_engine_flags(group(flags, "running").add_argument)
    return flags


def _config(options: argparse.Namespace) -> ReportConfig:
    names = {field.name for field in fields(ReportConfig)} - {"trust"}
    given = {name: getattr(options, name) for name in names}
    return ReportConfig(**given, trust=trust_of(options, options.input))


def require_extra() -> None:
    """Makes sure that pages can be written.

    Raises:
        MissingExtraError: names the extra.
    """
    require_matplotlib()
    require("jinja2", "pages")


def _check(tables: ScoredTables, config: ReportConfig) -> None:
    """Makes sure that the run has what is asked for; raises `ScoredTablesError` if not."""
    wanted = tables.had(COLUMNS)
    if config.cut is not None or config.top_fraction is not None:
        wanted = ["similarity", *wanted]
    check_columns(tables.schema, [*map(tables.column, wanted)], tables.embeddings[0])


def write_report(
    tables: ScoredTables, config: ReportConfig, options: Workers | None = None
) -> list[str]:
    """Gathers the statistics, fetches the images and writes the page in one piece.

    Returns:
        Lines for the summary: how to see the images that were not allowed.

    Raises:
        ScoredTablesError, OSError: if a table cannot be read or the page not be written.
    """
    rows = tables.rows_of(tables.embeddings + tables.rejects)
    with meter(rows, "rows") as count:
        statistics = gather(tables, config.thumbnails, options, count)
    cut = config.cut
    if cut is None:
        cut = cut_of_fraction(statistics.similarity, config.top_fraction or TOP_FRACTION)
    galleries = _galleries(statistics, cut, tables, config.trust)
    page = render_report(tables, statistics, cut, galleries, what_is_missing(tables))
    writing.write_atomically(config.output, page.encode())
    return remedy_lines([image for part in galleries.values() for _, image in part if image])


def _galleries(statistics: Statistics, cut: float, tables: ScoredTables, trust: Trust) -> Galleries:
    """Returns rows to show by what they are, with their images where the run has any."""
    examples = statistics.examples
    parts = {"best": examples.best, "cut": examples.at(cut), "worst": examples.worst}
    parts["drawn"] = examples.drawn
    rows = [row for part in parts.values() for row in part]
    images: Iterable[Thumbnail | None] = repeat(None)
    if tables.pairs != TEXTS:
        with meter(len(rows), "images") as count:
            units = source_units(tables.embeddings, rows)
            images = thumbnails(rows, tables.options, units, trust, count)
    shown = iter(images)
    return {name: [(row, next(shown)) for row in part] for name, part in parts.items()}


if __name__ == "__main__":
    exits.run(main)
