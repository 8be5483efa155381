"""The plots of a report: rows by similarity, by threshold, by length and by size."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.pages import plots
from pipelines.pages.histograms import (
    BINS,
    bin_floor,
    cut_of_fraction,
    kept_counts,
    quantile,
    rows_kept,
)
from pipelines.pages.statistics import Statistics
from schemas.pairs import BOTH, IMAGES, TEXTS

BARS = 80
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def drawn_plots(statistics: Statistics, cut: float, pairs: str) -> dict[str, Any]:
    """Returns the plots of what such pairs have, by name, as SVG that needs no escaping."""
    from markupsafe import Markup  # no foreign text is in what is drawn here

    counts = statistics.similarity
    drawn = {}
    if pairs == BOTH:
        drawn["similarity"] = _similarity_plot(counts, cut)
        drawn["by_threshold"] = _threshold_plot(counts, cut)
        drawn["by_fraction"] = _fraction_plot(counts, cut)
    if pairs != IMAGES:
        drawn["text"] = _count_plot(statistics.text_chars, "characters", "Caption length")
    if pairs != TEXTS:
        drawn["size"] = _count_plot(statistics.short_sides, "pixels, shorter side", "Image size")
    return {name: Markup(svg) for name, svg in drawn.items()}


def _similarity_plot(counts: np.ndarray, cut: float) -> str:
    low, high = _range(counts)
    edges, bars = _merge(counts, low, high)
    _, kept = _merge(kept_counts(counts, cut), low, high)
    return plots.bars(
        np.asarray(bin_floor(edges)),
        bars,
        x_label="similarity",
        title="Rows by similarity",
        kept=kept,
        cut=cut if low <= (cut + 1) * BINS / 2 <= high else None,
    )


def _threshold_plot(counts: np.ndarray, cut: float) -> str:
    low, high = _range(counts)
    points = np.unique(np.linspace(low, high, 200).astype(int))
    kept = counts[::-1].cumsum()[::-1]
    share = np.append(kept, 0)[points] / counts.sum()
    return plots.curve(
        np.asarray(bin_floor(points)),
        share,
        x_label="threshold",
        y_label="rows kept",
        title="Rows kept, by threshold",
        percent="y",
        at=(cut, rows_kept(counts, cut) / counts.sum()),
    )


def _fraction_plot(counts: np.ndarray, cut: float) -> str:
    fractions = np.linspace(0.005, 1, 200)
    return plots.curve(
        fractions,
        np.array([cut_of_fraction(counts, fraction) for fraction in fractions]),
        x_label="fraction kept",
        y_label="threshold",
        title="Threshold, by fraction kept",
        percent="x",
        at=(rows_kept(counts, cut) / counts.sum(), cut),
    )


def _count_plot(counts: np.ndarray, x_label: str, title: str) -> str:
    """Draws 99% of the rows: a single giant would squeeze all others flat."""
    low, high = quantile(counts, 0.005), quantile(counts, 0.995) + 1
    air = max((high - low) // 10, 5)
    edges, bars = _merge(counts, max(low - air, 0), min(high + air, len(counts)))
    return plots.bars(edges, bars, x_label=x_label, title=title)


def _range(counts: np.ndarray) -> tuple[int, int]:
    """Returns the first and one past the last bin that hold rows, with a little air."""
    filled = np.flatnonzero(counts)
    air = max((filled[-1] - filled[0]) // 50, 20)
    return max(int(filled[0] - air), 0), min(int(filled[-1] + air + 1), len(counts))


def _merge(counts: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Merges bins to about `BARS` of a round width; returns their edges and counts."""
    step = next((step for step in _STEPS if (high - low) / step <= BARS), _STEPS[-1])
    edges = np.arange(low // step * step, high + step, step)
    total = np.append(0, counts.cumsum())
    return edges, np.diff(total[np.clip(edges, 0, len(counts))])
