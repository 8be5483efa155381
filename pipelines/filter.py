"""`clip-beam filter`: keeps the rows of a run that are worth training on.

OUTPUT/kept/<unit>.parquet   the kept rows with all their columns; a manifest for `embed` again
OUTPUT/uids.npy              their uids as DataComp's resharder takes them, where they are 32 hex
OUTPUT/filter.json           last: the conditions, and the rows left after each
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.command_line import exits
from pipelines.command_line.meter import meter
from pipelines.command_line.model_flags import add_model_name_flag
from pipelines.command_line.optional_packages import MissingExtraError
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place
from pipelines.curation import language
from pipelines.curation.conditions import FilterConfig, add_condition_flags, config_of
from pipelines.curation.exact_duplicates import exact_duplicates
from pipelines.curation.kept_mask import Selection
from pipelines.curation.kept_rows import KEPT, OUTPUTS, KeptRows, is_kept
from pipelines.curation.language import english_rule
from pipelines.curation.near_duplicates import near_duplicates
from pipelines.curation.not_near import not_near_rule
from pipelines.curation.row_lists import DROP, KEEP, list_rule, useless_lists
from pipelines.curation.rules import PRESETS, Preset, Rule, similarity_rule
from pipelines.curation.sql_rules import PredicateError, sql_rule
from pipelines.curation.top_fraction import Counts, histogram, threshold_of_fraction
from pipelines.engine.per_file import over_files, parse_with_engine
from pipelines.output.overwriting import make_room
from pipelines.output.scored_tables import (
    ScoredTables,
    ScoredTablesError,
    check_columns,
    choose_model,
    iterate_batches,
    row_count,
)
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag, open_whole
from pipelines.storage import uris
from pipelines.storage.redaction import redact, redacted
from schemas.embeddings import model_column

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

WITHOUT_LANGUAGE = 'captions in other languages; `pip install "clip-beam[language]"` tells them'


@dataclass(frozen=True)
class Plan:
    """What a checked command will do.

    Attributes:
        rules: conditions on columns other than the score, in their order: lists come first, so
            that they see every row.
        distant: conditions on the embedding, which come after the score, as they take longer.
        min_similarity, top_fraction: the condition on the score; one of them or neither.
        score, embedding: columns of the model.
        leaves_out: what of a preset cannot be done here, and why; or None.
    """

    tables: ScoredTables
    rules: tuple[Rule, ...]
    min_similarity: float | None
    top_fraction: float | None
    score: str
    embedding: str
    distant: tuple[Rule, ...] = ()
    leaves_out: str | None = None


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, beam_options = parse_with_engine(parser(), argv)
    try:
        config = config_of(options)
        plan = prepare(config)
        if config.output and not config.dry_run:
            make_room(config.output, OUTPUTS, config.overwrite)
    except (ValueError, OSError, MissingExtraError) as error:
        return exits.fail("filter", str(error), exits.status_before(error))
    try:
        selection = select(plan, config, beam_options)
        print(waterfall(selection, row_count(plan.tables.rejects)))
        for line in useless_lists(selection.steps):
            print(line)
        if plan.leaves_out:
            print(f"left out   {plan.leaves_out}")
        if config.output and not config.dry_run:
            kept = KeptRows(plan.tables, selection, config.output)
            for line in kept.write(_record(config), beam_options):
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
    return flags


def prepare(config: FilterConfig) -> Plan:
    """Checks everything that can be checked before the work.

    Raises:
        ValueError, OSError, MissingExtraError: what is wrong, in one sentence with the remedy.
    """
    tables = _open(config)
    name = choose_model(tables.schema, config.model_name)
    preset = PRESETS[config.preset] if config.preset else Preset("")
    english = [english_rule()] if preset.english and language.is_installed() else []
    predicates = [sql_rule(predicate, tables.schema) for predicate in config.where]
    lists = [list_rule(uri, kind) for kind in (KEEP, DROP) for uri in getattr(config, kind)]
    rules = (*lists, *english, *preset.rules, *predicates)
    asked = config.min_similarity is not None or config.top_fraction is not None
    plan = Plan(
        tables,
        rules,
        config.min_similarity if asked else preset.min_similarity,
        config.top_fraction if asked else preset.top_fraction,
        model_column("similarity", name),
        model_column("image_embedding", name),
        tuple(_distant_rules(config, tables.of_model(name))),
        WITHOUT_LANGUAGE if preset.english and not english else None,
    )
    checked = (*rules, *plan.distant)
    columns = [*(column for rule in checked for column in rule.columns), plan.score]
    columns += [plan.embedding] if config.dedup == "near" else []
    check_columns(tables.schema, columns, tables.embeddings[0])
    return plan


def _distant_rules(config: FilterConfig, tables: ScoredTables) -> Iterator[Rule]:
    for root in config.not_near:
        try:
            other = open_whole(root, config.allow_incomplete)
        except ScoredTablesError as error:
            told = str(error).replace("`--input`", "`--not_near`")
            raise ScoredTablesError(f"`--not_near` {redact(root)}: {told}") from None
        yield not_near_rule(tables, other, config.not_near_cosine)


def _open(config: FilterConfig) -> ScoredTables:
    if is_kept(uris.normalize(config.input)):
        raise ScoredTablesError(
            f"{config.input!r} was written by `clip-beam filter`; filter the run it came from by "
            f"all conditions at once, or embed its `{KEPT}` directory as a manifest"
        )
    return open_whole(config.input, config.allow_incomplete)


def select(plan: Plan, config: FilterConfig, options: PipelineOptions | None) -> Selection:
    """Applies the conditions: on single rows, on the score, then on rows with one image.

    Args:
        options: of Beam, if its workers are to look at the rows; duplicates are found here.

    Raises:
        ScoredTablesError, PredicateError, OSError: if a table cannot be read or a predicate fails.
    """
    rows = row_count(plan.tables.embeddings)
    rules = [*plan.rules, *score_rules(plan, options), *plan.distant]
    passes = bool(rules) + bool(config.dedup) + (config.dedup == "near")
    with meter(rows * passes, "rows") as count:
        selection = Selection(plan.tables.embeddings, count, options)
        if rules:
            selection.apply(rules)
        if config.dedup:
            worse = exact_duplicates(selection, plan.score)
            selection.drop(worse, "one row for each image")
        if config.dedup == "near":
            threshold = config.dedup_threshold
            worse = near_duplicates(selection, plan.embedding, plan.score, threshold)
            selection.drop(worse, f"no better row within cosine {threshold}")
    return selection


def score_rules(plan: Plan, options: PipelineOptions | None) -> list[Rule]:
    """Returns the rule on the score, if any; a share of rows is looked up in the tables."""
    if plan.min_similarity is not None:
        return [similarity_rule(plan.min_similarity, plan.score)]
    if plan.top_fraction is None:
        return []

    def histograms(high: int | None) -> Iterator[Counts]:
        work = partial(_histogram_of_file, plan.score, high)
        return over_files(work, plan.tables.embeddings, options)

    threshold = threshold_of_fraction(histograms, plan.top_fraction)
    if threshold is None:  # no row has a score
        return []
    return [similarity_rule(threshold, plan.score, f" (top {plan.top_fraction:.4g})")]


def _histogram_of_file(score: str, high: int | None, uri: str) -> Counts:
    columns = (batch.column(0).drop_null() for batch in iterate_batches(uri, [score]))
    return histogram((column.to_numpy(zero_copy_only=False) for column in columns), high)


def waterfall(selection: Selection, rejects: int) -> str:
    """Returns a line for each condition: the rows that are left, and their share of all."""
    embedded = selection.steps[0][1]
    steps = [("read", embedded + rejects), *selection.steps]
    width = max(len("condition"), *(len(name) for name, _ in steps))
    lines = [f"{'condition':<{width}}{'rows left':>13}{'of all':>9}"]
    for name, rows in steps:
        share = rows / (embedded + rejects) if embedded + rejects else 0.0
        lines.append(f"{name:<{width}}{rows:>13,}{share:>9.1%}")
    return "\n".join(lines)


def _record(config: FilterConfig) -> dict[str, Any]:
    own = ("output", "dry_run", "overwrite")
    return redacted({name: value for name, value in vars(config).items() if name not in own})


if __name__ == "__main__":
    exits.run(main)
