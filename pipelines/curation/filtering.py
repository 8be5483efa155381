"""One filter of a run, from its checked options to the rows that are left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pipelines.command_line.meter import meter
from pipelines.curation.conditions import FilterConfig
from pipelines.curation.duplicates.exact import exact_duplicates
from pipelines.curation.duplicates.near import near_duplicates
from pipelines.curation.duplicates.not_near import not_near_rule
from pipelines.curation.kept_mask import Selection
from pipelines.curation.recipes import language
from pipelines.curation.recipes.clusters import cluster_rule
from pipelines.curation.recipes.entities import entity_rule
from pipelines.curation.recipes.presets import PRESETS, Preset
from pipelines.curation.row_lists import DROP, KEEP, list_rule
from pipelines.curation.rules import Rule, similarity_rule
from pipelines.curation.sql_rules import sql_rule
from pipelines.curation.top_fraction import Counts, histogram, threshold_of_fraction
from pipelines.curation.within_groups import Groups
from pipelines.engine.per_file import Workers, over_files
from pipelines.output.scored_tables import (
    ScoredTables,
    ScoredTablesError,
    check_columns,
    choose_model,
    iterate_batches,
)
from pipelines.output.whole_runs import open_whole
from pipelines.storage.redaction import redact
from schemas.embeddings import model_names

LEFT_OUT = 'captions in other languages; `pip install "clip-beam[language]"` tells them'


@dataclass(frozen=True)
class Plan:
    """What a checked command will do.

    Attributes:
        tables: the run, with the model whose score is asked for, if one is.
        rules: conditions on columns other than the score, in their order: lists come first, so
            that they see every row.
        distant: conditions on the embedding, which come after the score, as they take longer.
        min_similarity, top_fraction: the condition on the score; one of them or neither.
        within: columns whose groups the fraction is of.
        leaves_out: what of a preset cannot be done here, and why; or None.
    """

    tables: ScoredTables
    rules: tuple[Rule, ...]
    min_similarity: float | None
    top_fraction: float | None
    within: tuple[str, ...] = ()
    distant: tuple[Rule, ...] = ()
    leaves_out: str | None = None

    @property
    def score(self) -> str:
        """The column of the similarity."""
        return self.tables.column("similarity")

    @property
    def preference(self) -> str | None:
        """The column that says which of equal images is kept; None for the first."""
        return self.score if self.score in self.tables.schema.names else None


def prepare(config: FilterConfig) -> Plan:
    """Checks everything that can be checked before the work.

    Raises:
        ValueError, OSError, MissingExtraError: what is wrong, in one sentence with the remedy.
    """
    tables = open_whole(config.input, config.allow_incomplete)
    preset = PRESETS[config.preset] if config.preset else Preset("")
    asked = config.min_similarity is not None or config.top_fraction is not None
    least = config.min_similarity if asked else preset.min_similarity
    fraction = config.top_fraction if asked else preset.top_fraction
    is_scored = least is not None or fraction is not None
    needs_model = is_scored or preset.clusters or bool(config.dedup or config.not_near)
    if needs_model or config.model_name:
        tables = tables.of_model(_model(tables, config, preset))
    if not asked or preset.clusters:
        _check_architecture(tables, config.preset, preset)
    english = preset.english if preset.english and language.is_installed(preset.english) else None
    plan = Plan(
        tables,
        tuple(_rules(config, tables, preset, english)),
        least,
        fraction,
        config.within,
        tuple(_distant_rules(config, tables, preset)),
        LEFT_OUT if preset.english != english else None,
    )
    checked = [column for rule in (*plan.rules, *plan.distant) for column in rule.columns]
    checked += [plan.score] if is_scored else []
    checked += ["sha256"] if config.dedup else []
    checked += [tables.column("image_embedding")] if config.dedup == "near" else []
    check_columns(tables.schema, [*checked, *config.within], tables.embeddings[0])
    Groups(config.within, plan.score).check(tables.schema)
    return plan


def _model(tables: ScoredTables, config: FilterConfig, preset: Preset) -> str | None:
    """Returns the model to read: of several the one that the recipe is about, if that is plain."""
    names = model_names(tables.schema)
    if config.model_name is None and len(names) > 1 and preset.architecture:
        found = [name for name in names if _architecture(tables, name) == preset.architecture]
        if len(found) == 1:
            return found[0]
    return choose_model(tables.schema, config.model_name)


def _check_architecture(tables: ScoredTables, name: str | None, preset: Preset) -> None:
    found = _architecture(tables, tables.model_name)
    if preset.architecture and found not in (None, preset.architecture):
        raise ScoredTablesError(
            f"expected embeddings of a {preset.architecture} for the preset {name}, the run has "
            f"those of {found}; give `min_similarity` or `top_fraction` for another model"
        )


def _architecture(tables: ScoredTables, name: str | None) -> object:
    return tables.fingerprint.get("architecture" if name is None else f"{name}.architecture")


def _rules(
    config: FilterConfig, tables: ScoredTables, preset: Preset, english: str | None
) -> Iterator[Rule]:
    for kind in (KEEP, DROP):
        yield from (list_rule(uri, kind) for uri in getattr(config, kind))
    if english:
        yield language.english_rule(english)
    yield from preset.rules
    if preset.entities:
        yield entity_rule(str(config.synsets))
    yield from (sql_rule(predicate, tables.schema) for predicate in config.where)


def _distant_rules(config: FilterConfig, tables: ScoredTables, preset: Preset) -> Iterator[Rule]:
    if preset.clusters:
        column = tables.column("image_embedding")
        check_columns(tables.schema, [column], tables.embeddings[0])
        dim = tables.schema.field(column).type.list_size
        yield cluster_rule(str(config.centroids), str(config.target_clusters), column, dim)
    for root in config.not_near:
        try:
            other = open_whole(root, config.allow_incomplete)
        except ScoredTablesError as error:
            told = str(error).replace("`input`", "`not_near`")
            raise ScoredTablesError(f"`not_near` {redact(root)}: {told}") from None
        yield not_near_rule(tables, other, config.not_near_cosine)


def select(plan: Plan, config: FilterConfig, options: Workers | None) -> Selection:
    """Applies the conditions: on single rows, on the score, then on rows with one image.

    Args:
        options: slots or workers of Beam that are to look at the rows; duplicates are found here.

    Raises:
        ScoredTablesError, PredicateError, OSError: if a table cannot be read or a predicate fails.
    """
    rows = plan.tables.rows_of(plan.tables.embeddings)
    rules = [*plan.rules, *_score_rules(plan, options), *plan.distant]
    passes = bool(rules) + bool(config.dedup) + (config.dedup == "near")
    with meter(rows * passes, "rows") as count:
        selection = Selection(plan.tables, count, options)
        if rules:
            selection.apply(rules)
        if config.dedup:
            worse = exact_duplicates(selection, plan.preference)
            selection.drop(worse, "one row for each image")
        if config.dedup == "near":
            threshold, column = config.dedup_threshold, plan.tables.column("image_embedding")
            worse = near_duplicates(selection, column, plan.preference, threshold)
            selection.drop(worse, f"no better row within cosine {threshold}")
    return selection


def _score_rules(plan: Plan, options: Workers | None) -> list[Rule]:
    """Returns the rule on the score, if any; a share of rows is looked up in the tables."""
    if plan.min_similarity is not None:
        return [similarity_rule(plan.min_similarity, plan.score)]
    if plan.top_fraction is None:
        return []
    if plan.within:
        rule = Groups(plan.within, plan.score).rule(plan.tables, plan.top_fraction, options)
        return [] if rule is None else [rule]

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
