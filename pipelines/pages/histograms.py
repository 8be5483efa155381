"""Rows by similarity, in bins of 0.0001: each number that comes of them is exact to that."""

from __future__ import annotations

import numpy as np

from pipelines.curation.top_fraction import index_of_fraction

BINS = 20_000  # over [-1, 1]


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
