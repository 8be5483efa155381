"""Finds the similarity that a fraction of all rows reach: exactly, by counting, without sorting."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

_HALF = 1 << 16

Counts = tuple[np.ndarray, np.ndarray]
Histograms = Callable[[int | None], Iterable[Counts]]


def index_of_fraction(rows: int, fraction: float) -> int:
    """Returns which of the values in descending order is the least to keep, by DataComp's rule.

    The rule (DataComp `baselines`, 2023): of N values the one at index int(N * fraction), and all
    that reach it.

    Args:
        rows: one or more.
        fraction: in (0, 1]; 1 keeps all.
    """
    return min(int(rows * fraction), rows - 1)


def threshold_of_fraction(histograms: Histograms, fraction: float) -> float | None:
    """Returns the least similarity to keep, the value at `index_of_fraction`.

    The upper 16 bits of all values are counted first, then the lower 16 bits of those that share
    the wanted upper ones, so a megabyte does for any number of rows.

    Args:
        histograms: called with None, then with the upper bits that were found; gives the
            `histogram` of each part of the scores.
        fraction: in (0, 1]; 1 keeps all.

    Returns:
        A float32 value, or None when there is no finite score.
    """
    upper = _total(histograms(None))
    rows = int(upper.sum())
    if not rows:
        return None
    wanted = index_of_fraction(rows, fraction)
    high, before = _find(upper, wanted)
    low, _ = _find(_total(histograms(high)), wanted - before)
    return value_of_key(high << 16 | low)


def histogram(scores: Iterable[np.ndarray], high: int | None) -> Counts:
    """Counts scores by one half of their bits, ordered as the scores are.

    Args:
        scores: [rows] float32 arrays. Values that are not finite are left out.
        high: None to count by the upper 16 bits; else by the lower ones, where these are the upper.

    Returns:
        [bins] the halves there are, and [bins] how often.
    """
    counts = np.zeros(_HALF, np.int64)
    for keys in map(ordered_keys, scores):
        halves = keys >> 16 if high is None else keys[keys >> 16 == high] & 0xFFFF
        counts += np.bincount(halves, minlength=_HALF)
    bins = np.flatnonzero(counts)
    return bins, counts[bins]


def ordered_keys(scores: np.ndarray) -> np.ndarray:
    """Maps finite floats to uint32 of the same order; -0.0 and 0.0 are one value."""
    bits = (scores[np.isfinite(scores)].astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def value_of_key(key: int) -> float:
    """Returns the float32 value that `ordered_keys` maps to a key."""
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.array(bits, np.uint32).view(np.float32))


def _total(histograms: Iterable[Counts]) -> np.ndarray:
    total = np.zeros(_HALF, np.int64)
    for bins, counts in histograms:
        total[bins] += counts
    return total


def _find(counts: np.ndarray, index: int) -> tuple[int, int]:
    """Returns the bin of the value at `index` in descending order, and how many are above it."""
    reached = counts[::-1].cumsum()
    place = int(np.searchsorted(reached, index, side="right"))
    return _HALF - 1 - place, int(reached[place - 1]) if place else 0
