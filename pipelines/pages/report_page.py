"""The page of a run: what its numbers look like, laid out by templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.output.run_json import chain_of
from pipelines.output.scored_tables import ScoredTables
from pipelines.pages import plots
from pipelines.pages.rendering import render
from pipelines.pages.statistics import (
    BINS,
    Statistics,
    bin_floor,
    cut_of_fraction,
    kept_counts,
    quantile,
    rows_kept,
)
from pipelines.pages.thumbnails import Thumbnail
from pipelines.pages.times import bars, duration
from pipelines.queries.scored_rows import ScoredRow
from pipelines.storage.redaction import redact
from pipelines.web.reject_counts import WORST

Gallery = Sequence[tuple[ScoredRow, Thumbnail]]
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9)
BARS = 80
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def render_report(
    tables: ScoredTables,
    statistics: Statistics,
    cut: float,
    galleries: Sequence[Gallery],
    lack: str | None = None,
) -> str:
    """Returns the HTML page.

    Args:
        cut: the similarity to mark.
        galleries: pairs of the best, those at the cut, and the worst.
        lack: why the run is not whole; None if it is.
    """
    fingerprint, record = tables.fingerprint, tables.record
    return render(
        "report.html",
        title="Image-text scores",
        root=redact(tables.root),
        lack=lack,
        model=_model_line(tables),
        tiles=_tiles(statistics, record, cut),
        plots=_plots(statistics, cut) if statistics.rows else None,
        cut_note=f"Coloured: at or above {cut:.4f}.",
        thresholds=_thresholds(statistics),
        galleries=_named(galleries, cut),
        text_note=_text_note(statistics),
        size_note=_size_note(statistics),
        rejects=_rejects(statistics),
        web_rejects=_web_rejects(statistics),
        times=bars(record.get("seconds", {})),
        provenance=[
            {"name": title, "rows": _facts(values)}
            for title, values in (
                ("Fingerprint", fingerprint),
                ("Options", tables.options),
                ("Versions", record.get("versions", {})),
            )
            if values
        ]
        + _chain(record),
    )


def _chain(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns, for each filter that the rows came through, what it read and what it left."""
    return [
        {
            "name": f"Kept from {part.get('run')}",
            "rows": [(step["condition"], f"{step['rows']:,}") for step in part["steps"]],
        }
        for part in chain_of(record)
    ]


def _model_line(tables: ScoredTables) -> str:
    architecture = tables.model_fingerprint.get("architecture")
    parts = (tables.model_name, tables.options.get("model"), architecture)
    return " · ".join(str(part) for part in parts if part)


def _tiles(statistics: Statistics, record: Mapping[str, Any], cut: float) -> list[dict[str, str]]:
    rejected = sum(statistics.rejects.values())
    read = statistics.rows + rejected
    kept = rows_kept(statistics.similarity, cut)
    wall = record.get("seconds", {}).get("wall")
    tiles = [
        ("rows read", f"{read:,}", "embedded plus rejected"),
        ("embedded", f"{statistics.rows:,}", _share(statistics.rows, read)),
        ("rejected", f"{rejected:,}", _share(rejected, read)),
        ("mean similarity", f"{statistics.mean:.3f}", _middle(statistics)),
        ("kept at the cut", f"{kept:,}", f"{_share(kept, statistics.rows)} at {cut:.4f}"),
    ]
    if wall:
        tiles.append(("wall time", duration(wall), f"{read / wall:,.0f} rows/s if in one call"))
    return [dict(zip(("name", "value", "note"), tile, strict=True)) for tile in tiles]


def _plots(statistics: Statistics, cut: float) -> dict[str, Any]:
    from markupsafe import Markup

    counts = statistics.similarity
    drawn = {
        "similarity": _similarity_plot(counts, cut),
        "by_threshold": _threshold_plot(counts, cut),
        "by_fraction": _fraction_plot(counts, cut),
        "text": _count_plot(statistics.text_chars, "characters", "Caption length"),
        "size": _count_plot(statistics.short_sides, "pixels, shorter side", "Image size"),
    }
    return {
        name: Markup(svg) for name, svg in drawn.items()
    }  # drawn here: no foreign text is in it


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


def _thresholds(statistics: Statistics) -> list[dict[str, str]]:
    cuts = [(f, cut_of_fraction(statistics.similarity, f)) for f in FRACTIONS]
    return [
        {
            "fraction": f"{fraction:.0%}",
            "rows": f"{rows_kept(statistics.similarity, cut):,}",
            "cut": f"{cut:.4f}",
        }
        for fraction, cut in cuts
    ]


def _named(galleries: Sequence[Gallery], cut: float) -> list[dict[str, Any]]:
    names = (
        ("Best", "The pairs of highest similarity."),
        ("At the cut", f"Pairs nearest to {cut:.4f}, among examples taken of each 0.001."),
        ("Worst", "The pairs of lowest similarity."),
    )
    return [
        {"name": name, "note": note, "pairs": pairs}
        for (name, note), pairs in zip(names, galleries, strict=True)
        if pairs
    ]


def _text_note(statistics: Statistics) -> str:
    middle = quantile(statistics.text_chars, 0.5)
    cut = _share(statistics.truncated, statistics.rows)
    return f"Median {middle} characters. {cut} are longer than the model's context."


def _size_note(statistics: Statistics) -> str:
    sides = statistics.short_sides
    low, middle, high = (quantile(sides, share) for share in (0.05, 0.5, 0.95))
    return f"Shorter side: median {middle} pixels, 90% between {low} and {high}."


def _rejects(statistics: Statistics) -> list[dict[str, Any]]:
    most = max(statistics.rejects.values(), default=0)
    return [
        {"name": f"{reason} ({stage})", "value": f"{count:,}", "share": count / most}
        for (stage, reason), count in statistics.rejects.most_common()
    ]


def _web_rejects(statistics: Statistics) -> list[dict[str, Any]]:
    """Returns rejects of the web: the worst hosts, and what hosts answered."""
    found = statistics.web_rejects
    parts = {
        f"Images of the web, by host (the worst {WORST}):": found.hosts.most_common(WORST),
        "By answer:": found.answers.most_common(),
    }
    most = max(found.answers.total(), 1)
    return [
        {
            "note": note,
            "rows": [{"name": n, "value": f"{c:,}", "share": c / most} for n, c in counted],
        }
        for note, counted in parts.items()
        if counted
    ]


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Leaves out what was not set."""
    given = {name: value for name, value in values.items() if value not in (None, [], "")}
    return [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in sorted(given.items())
    ]


def _middle(statistics: Statistics) -> str:
    low, high = (float(bin_floor(quantile(statistics.similarity, s))) for s in (0.05, 0.95))
    return f"90% in {low:.3f} to {high:.3f}" if statistics.rows else "no rows"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "no rows"
