"""How well a score ranks true above false."""

from __future__ import annotations

import numpy as np


def auroc(true: np.ndarray, false: np.ndarray) -> float:
    """Returns the area under the ROC curve: how often a true score beats a false one.

    Ties count half (Mann-Whitney U).

    Args:
        true, false: [n] and [m] scores.

    Raises:
        ValueError: if either is empty, or a score is NaN.
    """
    if not len(true) or not len(false):
        raise ValueError(f"expected scores of both kinds, got {len(true)} and {len(false)}")
    if np.isnan(true).any() or np.isnan(false).any():
        raise ValueError("expected scores that can be ordered, got NaN")
    ordered = np.sort(false)
    below = np.searchsorted(ordered, true, side="left")
    up_to = np.searchsorted(ordered, true, side="right")
    return float((below + up_to).mean() / 2 / len(false))
