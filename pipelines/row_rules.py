"""Rules that look at one row alone: a predicate in SQL, and those of published datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.extras import require


class PredicateError(ValueError):
    """What was given as `--where` is no predicate over the columns."""


@dataclass(frozen=True)
class Rule:
    """A condition that rows are kept by.

    Attributes:
        name: as the table of steps shows it.
        columns: what it needs.
        keeps: maps a batch with these columns to [rows] bool; null counts as no.
    """

    name: str
    columns: tuple[str, ...]
    keeps: Callable[[pa.RecordBatch], np.ndarray]


@dataclass(frozen=True)
class Preset:
    """A published recipe.

    Attributes:
        does: for the help text; says what is left out of the original.
        english: whether captions have to be English, where the extra `language` can tell.
        rules: further conditions on single rows.
        min_similarity, top_fraction: the condition on the score, if any.
    """

    does: str
    english: bool = False
    rules: tuple[Rule, ...] = ()
    min_similarity: float | None = None
    top_fraction: float | None = None


def sql_rule(predicate: str, schema: pa.Schema) -> Rule:
    """Makes a rule of an SQL predicate, which DuckDB evaluates; it reaches no file and no network.

    Raises:
        PredicateError: if it is not one predicate over the columns of `schema`.
        MissingExtraError: if DuckDB is not installed.
    """
    # A name within another one costs reading a column more, no worse.
    columns = tuple(name for name in schema.names if name.lower() in predicate.lower())
    if not columns:
        raise PredicateError(
            f"`--where` {predicate!r} names no column; there are {', '.join(schema.names)}"
        )
    evaluate = _Sql(predicate)
    # Two rows: of one, an aggregate would look like a predicate.
    nullable = pa.schema([schema.field(name).with_nullable(True) for name in columns])
    evaluate(pa.Table.from_pylist([{}, {}], nullable))
    return Rule(f"where {predicate}", columns, evaluate)


class _Sql:
    """Evaluates a predicate over batches; each process opens a database of its own."""

    def __init__(self, predicate: str) -> None:
        self._predicate = predicate

    def __reduce__(self) -> tuple[type[_Sql], tuple[str]]:
        return _Sql, (self._predicate,)

    @cached_property
    def _duckdb(self) -> ModuleType:
        return require("duckdb", "`--where`", extra="filter")

    @cached_property
    def _database(self) -> Any:
        config = {"enable_external_access": "false", "lock_configuration": "true", "threads": "1"}
        return self._duckdb.connect(config=config)

    def __call__(self, rows: pa.Table | pa.RecordBatch) -> np.ndarray:
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        try:
            self._database.register("rows", table)
            # The line break ends a comment.
            query = f"SELECT ({self._predicate}\n) AS keep FROM rows"
            if len(self._database.extract_statements(query)) != 1:
                raise self._refused("it holds several statements")
            found = self._database.sql(query).to_arrow_table().column(0)
        except self._duckdb.Error as error:
            raise self._refused(str(error).split("\n", 1)[0]) from error
        if len(found) != len(table) or not pa.types.is_boolean(found.type):
            raise self._refused(f"it gives {len(found)} of {found.type} for {len(table)} rows")
        return _mask(found)

    def _refused(self, reason: str) -> PredicateError:
        return PredicateError(
            f"expected `--where` to be an SQL predicate over the columns, got {self._predicate!r}: "
            f"{reason}"
        )


def similarity_rule(least: float, column: str = "similarity", note: str = "") -> Rule:
    """Keeps rows of at least a similarity, compared in float32.

    Args:
        note: ends the name.
    """
    # The shortest digits that give the same float32: those of the float64 would not read as typed.
    name = f"{column} >= {str(np.float32(least))}{note}"
    bound = pa.scalar(least, pa.float32())
    return _rule(name, (column,), lambda b: pc.greater_equal(b[column], bound))


def _rule(name: str, columns: Sequence[str], keeps: Callable[[pa.RecordBatch], Any]) -> Rule:
    return Rule(name, tuple(columns), lambda batch: _mask(keeps(batch)))


def _mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)


def _words(batch: pa.RecordBatch) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(batch["text"])
    return pc.list_value_length(pc.utf8_split_whitespace(trimmed))


def _sides(batch: pa.RecordBatch, choose: Callable[..., pa.Array]) -> pa.Array:
    return choose(batch["original_width"], batch["original_height"], skip_nulls=False)


def _aspect(batch: pa.RecordBatch) -> pa.Array:
    longer, shorter = (_sides(batch, f) for f in (pc.max_element_wise, pc.min_element_wise))
    return pc.divide(pc.cast(longer, pa.float64()), pc.cast(shorter, pa.float64()))


_SIZE = ("original_width", "original_height")
_DATACOMP_BASIC = (
    _rule("more than 2 words", ["text"], lambda b: pc.greater(_words(b), 2)),
    _rule("more than 5 characters", ["text"], lambda b: pc.greater(pc.utf8_length(b["text"]), 5)),
    _rule(
        "shorter side >= 200",
        _SIZE,
        lambda b: pc.greater_equal(_sides(b, pc.min_element_wise), 200),
    ),
    _rule("aspect ratio <= 3", _SIZE, lambda b: pc.less_equal(_aspect(b), 3.0)),
)
_LAION = _rule(
    "5 characters or more", ["text"], lambda b: pc.greater_equal(pc.utf8_length(b["text"]), 5)
)

# DataComp (Gadre et al. 2023, section 4) and LAION-400M (Schuhmann et al. 2021, section 2).
PRESETS: Mapping[str, Preset] = {
    "datacomp-basic": Preset(
        "captions and picture sizes as DataComp's basic filter; English with the extra `language`",
        english=True,
        rules=_DATACOMP_BASIC,
    ),
    "clip-l14-30pct": Preset("the best 30 %, for the scores of a ViT-L/14", top_fraction=0.3),
    "laion400m": Preset(
        "similarity of 0.3 and captions of 5 characters; without its rule on file sizes",
        rules=(_LAION,),
        min_similarity=0.3,
    ),
}
