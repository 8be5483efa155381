"""Plots as inline SVG whose colours and type are the page's own, in light and in dark mode.

Drawn by matplotlib (extra `report`) with stand-in colours, which become CSS variables. The user's
settings of matplotlib change nothing: it draws with its own defaults, and without a backend.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pipelines.command_line.optional_packages import require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in colours that nothing else uses, and the CSS variables of the page they turn into.
INK, MUTED, ACCENT, REST = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "ink", MUTED: "line", ACCENT: "accent", REST: "rest"}
_WIDTH_IN, _HEIGHT_IN = 5.6, 3.1
_FONT_PT = 10.5


@contextmanager
def _own_settings() -> Iterator[None]:
    matplotlib = require_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@_own_settings()
def bars(
    edges: np.ndarray,
    counts: np.ndarray,
    *,
    x_label: str,
    title: str,
    kept: np.ndarray | None = None,
    cut: float | None = None,
) -> str:
    """Draws a histogram.

    Args:
        edges: [bins + 1], ascending.
        counts: [bins] rows.
        kept: [bins] rows of them to draw in the accent colour; all when None.
        cut: where to draw a line, or None.
    """
    figure, axes = _axes(x_label, "rows")
    widths = np.diff(edges) * 0.9
    if kept is not None:
        axes.bar(edges[:-1], counts, width=widths, align="edge", color=REST, linewidth=0)
        counts = kept
    axes.bar(edges[:-1], counts, width=widths, align="edge", color=ACCENT, linewidth=0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    if cut is not None:
        _mark(axes, cut)
    return _svg(figure, title)


@_own_settings()
def curve(
    x: np.ndarray,
    y: np.ndarray,
    *,
    x_label: str,
    y_label: str,
    title: str,
    percent: str,
    at: tuple[float, float],
) -> str:
    """Draws one line and marks a point on it.

    Args:
        x, y: [points].
        percent: `x` or `y`, the axis that shows a share in per cent.
        at: the marked point.
    """
    from matplotlib.ticker import PercentFormatter

    figure, axes = _axes(x_label, y_label)
    axes.plot(x, y, color=ACCENT, linewidth=2, solid_capstyle="round")
    axes.plot([at[0], at[0]], [min(y.min(), 0), at[1]], color=INK, linewidth=1, dashes=(3, 3))
    axes.plot(*at, marker="o", markersize=6, color=INK)
    axis = axes.xaxis if percent == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(x.min(), x.max() if x.max() > x.min() else x.min() + 1)
    axes.set_ylim(min(float(y.min()), 0.0), None)
    return _svg(figure, title)


@_own_settings()
def heat_map(shares: np.ndarray, names: Sequence[str], title: str, kind: str) -> bytes:
    """Draws a confusion matrix: rows are the truth, columns the label given.

    Args:
        shares: [classes, classes], each row summing to 1, or to 0 where a class has no rows.
        names: of the classes; one with letters that cannot be drawn is named by its number.
        kind: `png` or `svg`.
    """
    from matplotlib.figure import Figure

    drawn = _drawable(names)
    numbered = "" if drawn == list(names) else " (#0 is the first of the labels)"

    side = float(np.clip(2.5 + 0.32 * len(names), 4, 24))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(drawn)), drawn, rotation=90, parse_math=False)
    axes.set_yticks(range(len(drawn)), drawn, parse_math=False)
    axes.set(xlabel=f"label given{numbered}", ylabel="truth", title=title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(names) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.0%}", ha="center", va="center", c=colour, size=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()


def _drawable(names: Sequence[str]) -> list[str]:
    """Returns the names, with a number in the place of each that would come out as boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    letters = get_font(findfont(FontProperties())).get_charmap()
    return [
        name if all(ord(letter) in letters for letter in name) else f"#{number}"
        for number, name in enumerate(names)
    ]


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK, size=_FONT_PT)
    axes.set_ylabel(y_label, color=INK, size=_FONT_PT)
    axes.tick_params(colors=INK, labelsize=_FONT_PT, length=0, pad=5)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.grid(True, color=MUTED, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    if y_label == "rows":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, axes


def _mark(axes: Axes, cut: float) -> None:
    axes.axvline(cut, color=INK, linewidth=1, dashes=(3, 3))
    low, high = axes.get_xlim()
    is_right = cut > (low + high) / 2
    axes.annotate(
        f"cut {cut:.3f}",
        (cut, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if is_right else 6, -2),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="top",
        color=INK,
        size=_FONT_PT,
    )


def _svg(figure: Figure, title: str) -> str:
    """Returns an `<svg>` element that scales with the page and takes its colours and type."""
    import matplotlib

    buffer = io.StringIO()
    # The salt keeps the ids of clip paths apart where a page holds several plots.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>", rf'<svg viewBox="\1" role="img" '
                 rf'aria-label="{title}">', svg, count=1)  # fmt: skip
    svg = re.sub(r' id="[a-z]+\d*_\d+(_\d+)?"', "", svg)  # of groups; nothing refers to them
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for stand_in, name in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg
