"""The share of rows with the highest scores within each group: exactly, by counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.curation.rules import Rule
from pipelines.curation.top_fraction import index_of_fraction, ordered_keys, value_of_key
from pipelines.engine.per_file import Workers, over_files
from pipelines.output.scored_tables import ScoredTables, ScoredTablesError, iterate_batches

MAX_GROUPS = 1_000_000
Group = tuple[object, ...]
# By group: [values] halves of keys, rising, and [values] how many rows have each.
Counts = dict[Group, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Groups:
    """Which rows are compared with each other, and by what.

    Attributes:
        columns: rows of a group have equal values in these; null is a value.
        score: the column of the similarity.
    """

    columns: tuple[str, ...]
    score: str

    def check(self, schema: pa.Schema) -> None:
        """Makes sure that the columns can be compared.

        Raises:
            ScoredTablesError: names the first that cannot.
        """
        for name in self.columns:
            kind = schema.field(name).type
            if pa.types.is_nested(kind) or pa.types.is_floating(kind):
                raise ScoredTablesError(
                    f"expected columns of text, whole numbers or dates as `within`, got {name!r} "
                    f"of type {kind}"
                )

    def rule(self, tables: ScoredTables, fraction: float, options: Workers | None) -> Rule | None:
        """Returns the rule that keeps a share of each group, ties included; None without a score.

        Raises:
            ScoredTablesError: if there are more groups than can be told apart.
        """
        upper = self._counted(tables, None, options)
        found = {group: _find(*counts, fraction) for group, counts in upper.items()}
        highs = {group: high for group, (high, _) in found.items()}
        lower = self._counted(tables, highs, options)
        least = {
            group: value_of_key(high << 16 | _at(*lower[group], index))
            for group, (high, index) in found.items()
        }
        name = f"{self.score} in the top {fraction:.4g} within {', '.join(self.columns)}"
        return Rule(name, (*self.columns, self.score), _Reaches(least)) if least else None

    def _counted(
        self,
        tables: ScoredTables,
        highs: dict[Group, int] | None,
        options: Workers | None,
    ) -> Counts:
        work = partial(_counts_of_file, self, highs)
        total: Counts = {}
        for counts in over_files(work, tables.embeddings, options):
            _add(total, counts)
        return total


@dataclass(frozen=True)
class _Reaches:
    """Keeps the rows whose score, the last column, reaches that of their group."""

    least: dict[Group, float]

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        groups, of_row = groups_of(batch.columns[:-1])
        bounds = np.array([self.least.get(group, np.nan) for group in groups], np.float32)
        scores = batch.columns[-1].to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            return np.asarray(scores >= bounds[of_row], bool)


def groups_of(columns: Sequence[pa.Array]) -> tuple[list[Group], np.ndarray]:
    """Returns the groups that there are, and [rows] the number of each row's group."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        encoded = column.dictionary_encode("encode")
        more = encoded.indices.to_numpy(zero_copy_only=False)
        _, codes = np.unique(codes * (len(encoded.dictionary) + 1) + more, return_inverse=True)
    _, first, of_row = np.unique(codes, return_index=True, return_inverse=True)
    values = [column.take(pa.array(first)).to_pylist() for column in columns]
    return list(zip(*values, strict=True)), of_row.reshape(-1)


def _counts_of_file(groups: Groups, highs: dict[Group, int] | None, uri: str) -> Counts:
    total: Counts = {}
    for batch in iterate_batches(uri, [*groups.columns, groups.score]):
        found, of_row = groups_of(batch.columns[:-1])
        scores = batch.columns[-1].to_numpy(zero_copy_only=False)
        finite = np.isfinite(scores)
        keys, of_row = ordered_keys(scores[finite]), of_row[finite]
        halves = keys >> 16
        if highs is not None:
            wanted = np.array([highs.get(group, -1) for group in found], np.int64)[of_row]
            keys, of_row = keys[halves == wanted], of_row[halves == wanted]
            halves = keys & 0xFFFF
        _add(total, _counts(found, of_row, halves))
    return total


def _counts(groups: Sequence[Group], of_row: np.ndarray, halves: np.ndarray) -> Counts:
    pairs, rows = np.unique(of_row.astype(np.int64) << 16 | halves, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(len(groups) + 1) << 16)
    return {
        group: ((pairs[start:end] & 0xFFFF).astype(np.uint16), rows[start:end])
        for group, start, end in zip(groups, starts, starts[1:], strict=False)
        if end > start
    }


def _add(total: Counts, counts: Counts) -> None:
    for group, (values, rows) in counts.items():
        if group in total:
            before, more = total[group]
            values, places = np.unique(np.concatenate([before, values]), return_inverse=True)
            summed = np.bincount(places, np.concatenate([more, rows])).astype(np.int64)
            total[group] = values, summed
        else:
            total[group] = values, rows
    if len(total) > MAX_GROUPS:
        raise ScoredTablesError(
            f"expected at most {MAX_GROUPS:,} groups of `within`, got more; name columns of "
            "fewer values"
        )


def _find(values: np.ndarray, rows: np.ndarray, fraction: float) -> tuple[int, int]:
    """Returns the upper half of the least score to keep, and its place among those that share it,
    the highest first."""
    index = index_of_fraction(int(rows.sum()), fraction)
    reached = rows[::-1].cumsum()
    place = int(np.searchsorted(reached, index, side="right"))
    return int(values[::-1][place]), index - (int(reached[place - 1]) if place else 0)


def _at(values: np.ndarray, rows: np.ndarray, index: int) -> int:
    """Returns the value at a place in descending order."""
    return int(values[::-1][np.searchsorted(rows[::-1].cumsum(), index, side="right")])
