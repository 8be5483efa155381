"""Statistics of a run in one pass over its tables, in memory that does not grow with the rows.

Similarities are counted in bins of 0.0001, so every number that comes of them is exact to that.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curation.top_fraction import index_of_fraction
from pipelines.engine.per_file import Workers, over_files
from pipelines.output.scored_tables import (
    ROW_COLUMNS,
    ScoredTables,
    iterate_batches,
)
from pipelines.queries.scored_rows import ScoredRow, rows_at
from pipelines.web.reject_counts import WebRejects

BINS = 20_000  # over [-1, 1]
COARSE = 10  # bins of the histogram in one bin of the examples: 0.001
MAX_TEXT_CHARS = 1_000  # longer captions are counted as this long
MAX_SIDE = 10_000  # pixels; larger images are counted as this large
COLUMNS = (
    "similarity",
    *ROW_COLUMNS,
    "original_width",
    "original_height",
    "text_truncated",
)
REJECT_COLUMNS = ("stage", "reason", "url", "detail")


class Statistics:
    """Counters over the rows of a run.

    Args:
        examples: rows to keep of the best, of the worst, and of each 0.001 of similarity.

    Attributes:
        similarity: [BINS] int64, rows by similarity.
        text_chars: [MAX_TEXT_CHARS + 1] int64, rows by length of the caption in characters.
        short_sides: [MAX_SIDE + 1] int64, rows by the image's shorter side in pixels.
        rejects: rejected rows by (stage, reason).
        web_rejects: those of the web, by host and by answer.
    """

    def __init__(self, examples: int) -> None:
        self.similarity = np.zeros(BINS, np.int64)
        self.text_chars = np.zeros(MAX_TEXT_CHARS + 1, np.int64)
        self.short_sides = np.zeros(MAX_SIDE + 1, np.int64)
        self.rejects: Counter[tuple[str, str]] = Counter()
        self.web_rejects = WebRejects()
        self.truncated = 0
        self._sum = 0.0
        self._examples = examples
        self._best: list[ScoredRow] = []
        self._worst: list[ScoredRow] = []
        self._by_bin: dict[int, list[ScoredRow]] = {}

    @property
    def rows(self) -> int:
        """Scored rows."""
        return int(self.similarity.sum())

    @property
    def mean(self) -> float:
        """Mean similarity; 0 of no rows."""
        return self._sum / self.rows if self.rows else 0.0

    @property
    def best(self) -> list[ScoredRow]:
        """The rows of highest similarity, highest first."""
        return sorted(self._best, reverse=True)

    @property
    def worst(self) -> list[ScoredRow]:
        """The rows of lowest similarity, lowest first."""
        return sorted(self._worst)

    def add(self, batch: pa.RecordBatch) -> None:
        """Counts a batch with `COLUMNS`."""
        scores = batch.column("similarity").to_numpy(zero_copy_only=False)
        batch = batch.filter(pa.array(np.isfinite(scores)))
        scores = scores[np.isfinite(scores)].astype(np.float64)
        if not len(scores):
            return
        bins = similarity_bins(scores)
        self.similarity += np.bincount(bins, minlength=BINS)
        self._sum += float(scores.sum())
        chars = pc.fill_null(pc.utf8_length(batch.column("text")), 0)
        _count(self.text_chars, chars)
        sides = pc.min_element_wise(
            batch.column("original_width"), batch.column("original_height"), skip_nulls=False
        )
        _count(self.short_sides, sides.drop_null())
        self.truncated += pc.sum(batch.column("text_truncated")).as_py() or 0
        self._keep_examples(batch, scores, bins // COARSE)

    def add_rejects(self, batch: pa.RecordBatch) -> None:
        """Counts a batch with `REJECT_COLUMNS`."""
        stages, reasons, urls, details = (batch.column(n).to_pylist() for n in REJECT_COLUMNS)
        self.rejects.update(zip(stages, reasons, strict=True))
        self.web_rejects.add(stages, urls, details)

    def merge(self, other: Statistics) -> None:
        """Adds the counters of other rows, taken with as many examples."""
        self.similarity += other.similarity
        self.text_chars += other.text_chars
        self.short_sides += other.short_sides
        self.rejects += other.rejects
        self.web_rejects.merge(other.web_rejects)
        self.truncated += other.truncated
        self._sum += other._sum
        self._worst = heapq.nsmallest(self._examples, self._worst + other._worst)
        self._best = heapq.nlargest(self._examples, self._best + other._best)
        for number, rows in other._by_bin.items():
            kept = self._by_bin.setdefault(number, [])
            kept += rows[: self._examples - len(kept)]

    def at(self, cut: float) -> list[ScoredRow]:
        """Returns the examples whose similarity is nearest to `cut`, highest first."""
        middle = int(similarity_bins(np.array([cut]))[0]) // COARSE
        nearest = sorted(self._by_bin, key=lambda number: (abs(number - middle), number))
        rows: list[ScoredRow] = []
        for number in nearest:
            rows += self._by_bin[number]
            # One bin more than is needed, since the nearest row may be in the next one.
            if len(rows) >= 2 * self._examples:
                break
        chosen = heapq.nsmallest(self._examples, rows, key=lambda row: abs(row.similarity - cut))
        return sorted(chosen, reverse=True)

    def _keep_examples(self, batch: pa.RecordBatch, scores: np.ndarray, coarse: np.ndarray) -> None:
        if not self._examples:
            return
        order = np.argsort(scores, kind="stable")
        worst = rows_at(batch, order[: self._examples])
        best = rows_at(batch, order[-self._examples :])
        self._worst = heapq.nsmallest(self._examples, self._worst + worst)
        self._best = heapq.nlargest(self._examples, self._best + best)
        full = [n for n, rows in self._by_bin.items() if len(rows) >= self._examples]
        for index in np.flatnonzero(~np.isin(coarse, full)):
            kept = self._by_bin.setdefault(int(coarse[index]), [])
            if len(kept) < self._examples:
                kept += rows_at(batch, [int(index)])


def gather(
    tables: ScoredTables,
    examples: int,
    options: Workers | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Statistics:
    """Reads both tables once, the needed columns alone.

    Args:
        options: slots or workers of Beam that are to count; None for this process.
        progress: called with the number of rows of each file.
    """
    statistics = Statistics(examples)
    files = tables.embeddings + tables.rejects
    found = over_files(partial(_statistics_of_file, tables, examples), files, options)
    for uri, part in zip(files, found, strict=True):
        statistics.merge(part)
        progress(tables.rows_of([uri]))
    return statistics


def _statistics_of_file(tables: ScoredTables, examples: int, uri: str) -> Statistics:
    statistics = Statistics(examples)
    if uri in tables.rejects:
        for batch in iterate_batches(uri, REJECT_COLUMNS):
            statistics.add_rejects(batch)
    else:
        for batch in tables.batches(uri, COLUMNS):
            statistics.add(batch)
    return statistics


def similarity_bins(scores: np.ndarray) -> np.ndarray:
    """Returns the bin of each score: 0 at -1, BINS - 1 at 1; rounding may put a score beyond."""
    return np.clip(((scores + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)


def bin_floor(number: int | np.ndarray) -> float | np.ndarray:
    """Returns the lowest similarity of a bin."""
    return number / (BINS / 2) - 1


def kept_counts(counts: np.ndarray, cut: float) -> np.ndarray:
    """Returns [BINS] the rows of at least the similarity `cut`, to the width of a bin."""
    first = max(int(np.ceil((cut + 1) * (BINS / 2) - 1e-6)), 0)
    return np.where(np.arange(len(counts)) >= first, counts, 0)


def rows_kept(counts: np.ndarray, cut: float) -> int:
    """Returns how many rows have at least the similarity `cut`, to the width of a bin."""
    return int(kept_counts(counts, cut).sum())


def cut_of_fraction(counts: np.ndarray, fraction: float) -> float:
    """Returns what the best `fraction` of the rows reach, as `filter` has it, to a bin's width."""
    rows = int(counts.sum())
    if not rows:
        return -1.0
    kept = counts[::-1].cumsum()[::-1]
    enough = np.flatnonzero(kept > index_of_fraction(rows, fraction))
    return float(bin_floor(int(enough[-1])))


def quantile(counts: np.ndarray, share: float) -> int:
    """Returns the smallest index at which at least `share` of all counts are reached; 0 of none."""
    if not counts.sum():
        return 0
    return int(np.searchsorted(counts.cumsum(), share * counts.sum()))


def _count(counts: np.ndarray, values: pa.Array) -> None:
    clipped = np.clip(values.to_numpy(zero_copy_only=False), 0, len(counts) - 1)
    counts += np.bincount(clipped, minlength=len(counts))
