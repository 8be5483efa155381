"""The page of a run: what its numbers look like, laid out by templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.output.run_json import chain_of
from pipelines.output.scored_tables import ScoredTables
from pipelines.pages.histograms import bin_floor, cut_of_fraction, quantile, rows_kept
from pipelines.pages.rendering import render
from pipelines.pages.report_plots import drawn_plots
from pipelines.pages.statistics import Statistics
from pipelines.pages.thumbnails import Thumbnail
from pipelines.pages.times import bars, duration
from pipelines.queries.scored_rows import ScoredRow
from pipelines.storage.redaction import redact
from pipelines.web.reject_counts import WORST
from schemas.pairs import BOTH, IMAGES, TEXTS

Gallery = Sequence[tuple[ScoredRow, Thumbnail | None]]
Galleries = Mapping[str, Gallery]
TITLES = {BOTH: "Image-text scores", IMAGES: "Image embeddings", TEXTS: "Caption embeddings"}
ROWS = {BOTH: "Pairs", IMAGES: "Images", TEXTS: "Captions"}
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9)


def render_report(
    tables: ScoredTables,
    statistics: Statistics,
    cut: float,
    galleries: Galleries,
    lack: str | None = None,
) -> str:
    """Returns the HTML page.

    Args:
        cut: the similarity to mark.
        galleries: rows to show: `best`, at the `cut`, `worst`, and `drawn` of those without score.
        lack: why the run is not whole; None if it is.
    """
    fingerprint, record = tables.fingerprint, tables.record
    return render(
        "report.html",
        title=TITLES[tables.pairs],
        kind=ROWS[tables.pairs],
        is_scored=tables.pairs == BOTH,
        root=redact(tables.root),
        lack=lack,
        model=_model_line(tables),
        tiles=_tiles(tables, statistics, cut),
        plots=drawn_plots(statistics, cut, tables.pairs) if statistics.rows else None,
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


def _tiles(tables: ScoredTables, statistics: Statistics, cut: float) -> list[dict[str, str]]:
    embedded, read = statistics.rows, statistics.records
    rejected = statistics.rejects.total()
    wall = tables.record.get("seconds", {}).get("wall")
    what = "records" if statistics.later_captions else "rows"  # a record for each caption
    tiles = [
        (f"{what} read", f"{read:,}", "embedded plus rejected"),
        ("embedded", f"{embedded:,}", _share(embedded, read)),
        ("rejected", f"{rejected:,}", _share(rejected, read)),
    ]
    if tables.pairs == BOTH:
        kept = rows_kept(statistics.similarity, cut)
        tiles.append(("mean similarity", f"{statistics.mean:.3f}", _middle(statistics)))
        tiles.append(("kept at the cut", f"{kept:,}", f"{_share(kept, embedded)} at {cut:.4f}"))
    if wall:
        tiles.append(("wall time", duration(wall), f"{read / wall:,.0f} {what}/s if in one call"))
    return [dict(zip(("name", "value", "note"), tile, strict=True)) for tile in tiles]


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


def _named(galleries: Galleries, cut: float) -> list[dict[str, Any]]:
    names = {
        "best": ("Best", "The pairs of highest similarity."),
        "cut": ("At the cut", f"Pairs nearest to {cut:.4f}, among examples taken of each 0.001."),
        "worst": ("Worst", "The pairs of lowest similarity."),
        "drawn": ("Some of all", "Drawn by the row's number, so they are the same each time."),
    }
    return [
        {"name": name, "note": note, "pairs": galleries[part]}
        for part, (name, note) in names.items()
        if galleries[part]
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
