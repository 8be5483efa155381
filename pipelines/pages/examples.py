"""A few rows of a run, to be shown on its page."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipelines.pages.histograms import similarity_bins
from pipelines.queries.scored_rows import ScoredRow, rows_at

COARSE = 10  # bins of the histogram in one bin of the examples: 0.001


class Examples:
    """Rows of the best, of the worst, and of each 0.001; some of all where there is no similarity.

    Args:
        number: of rows to keep of each.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._best: list[ScoredRow] = []
        self._worst: list[ScoredRow] = []
        self._by_bin: dict[int, list[ScoredRow]] = {}
        self._drawn: list[tuple[int, ScoredRow]] = []

    @property
    def best(self) -> list[ScoredRow]:
        """The rows of highest similarity, highest first."""
        return sorted(self._best, reverse=True)

    @property
    def worst(self) -> list[ScoredRow]:
        """The rows of lowest similarity, lowest first."""
        return sorted(self._worst)

    @property
    def drawn(self) -> list[ScoredRow]:
        """Rows without a similarity, which is NaN in these; the same ones in each report."""
        return [row for _, row in self._drawn]

    def at(self, cut: float) -> list[ScoredRow]:
        """Returns the examples whose similarity is nearest to `cut`, highest first."""
        middle = int(similarity_bins(np.array([cut]))[0]) // COARSE
        nearest = sorted(self._by_bin, key=lambda number: (abs(number - middle), number))
        rows: list[ScoredRow] = []
        for number in nearest:
            rows += self._by_bin[number]
            # One bin more than is needed, since the nearest row may be in the next one.
            if len(rows) >= 2 * self._number:
                break
        chosen = heapq.nsmallest(self._number, rows, key=lambda row: abs(row.similarity - cut))
        return sorted(chosen, reverse=True)

    def add(self, batch: pa.RecordBatch, scores: np.ndarray, bins: np.ndarray) -> None:
        """Chooses from a batch.

        Args:
            scores, bins: [rows] the similarity, and the bin of the histogram that it is in.
        """
        if not self._number:
            return
        coarse = bins // COARSE
        order = np.argsort(scores, kind="stable")
        worst = rows_at(batch, order[: self._number])
        best = rows_at(batch, order[-self._number :])
        self._worst = heapq.nsmallest(self._number, self._worst + worst)
        self._best = heapq.nlargest(self._number, self._best + best)
        full = [n for n, rows in self._by_bin.items() if len(rows) >= self._number]
        for index in np.flatnonzero(~np.isin(coarse, full)):
            kept = self._by_bin.setdefault(int(coarse[index]), [])
            if len(kept) < self._number:
                kept += rows_at(batch, [int(index)])

    def add_drawn(self, batch: pa.RecordBatch) -> None:
        """Chooses from a batch without similarities."""
        draws = _draws(batch)
        least = np.argsort(draws, kind="stable")[: self._number]
        rows = rows_at(batch, least, np.full(len(batch), np.nan))
        self._keep_drawn(zip(draws[least].tolist(), rows, strict=True))

    def merge(self, other: Examples) -> None:
        """Chooses from those of another, which keeps as many."""
        self._worst = heapq.nsmallest(self._number, self._worst + other._worst)
        self._best = heapq.nlargest(self._number, self._best + other._best)
        for number, rows in other._by_bin.items():
            kept = self._by_bin.setdefault(number, [])
            kept += rows[: self._number - len(kept)]
        self._keep_drawn(other._drawn)

    def _keep_drawn(self, more: Iterable[tuple[int, ScoredRow]]) -> None:
        self._drawn = heapq.nsmallest(self._number, [*self._drawn, *more], key=_order)


def _order(drawn: tuple[int, ScoredRow]) -> tuple[int, str]:
    return drawn[0], drawn[1].uid


def _draws(batch: pa.RecordBatch) -> np.ndarray:
    """Returns [rows] uint64 that look drawn and follow from a row's number (a Weyl sequence)."""
    numbers = batch.column("source_row").to_numpy(zero_copy_only=False).astype(np.uint64)
    return numbers * np.uint64(0x9E3779B97F4A7C15)
