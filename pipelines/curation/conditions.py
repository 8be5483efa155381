"""The conditions of `filter` on its command line, and their checks."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import place, readable_place
from pipelines.curation.rules import PRESETS

DEDUP_THRESHOLD = NOT_NEAR_COSINE = 0.95
LEAST_THRESHOLD = 0.8  # below, hash tables get as many as comparing all pairs would cost


@dataclass(frozen=True)
class FilterConfig:
    """Checked options of the command; the flags' names and meanings."""

    input: str
    output: str | None
    preset: str | None
    min_similarity: float | None
    top_fraction: float | None
    where: tuple[str, ...]
    not_near: tuple[str, ...]
    not_near_cosine: float
    keep_list: tuple[str, ...]
    drop_list: tuple[str, ...]
    dedup: str | None
    dedup_threshold: float
    model_name: str | None
    dry_run: bool
    overwrite: bool
    allow_incomplete: bool

    def __post_init__(self) -> None:
        if self.output is None and not self.dry_run:
            raise ValueError("expected `--output`, or `--dry_run` to see what would be kept")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise ValueError(
                f"`--min_similarity` must be between -1 and 1, got {self.min_similarity}"
            )
        if self.top_fraction is not None and not 0 < self.top_fraction <= 1:
            raise ValueError(
                f"`--top_fraction` must be above 0 and at most 1, got {self.top_fraction}"
            )
        if not LEAST_THRESHOLD <= self.dedup_threshold < 1:
            raise ValueError(
                f"`--dedup_threshold` must be at least {LEAST_THRESHOLD} and below 1, got "
                f"{self.dedup_threshold}"
            )
        if not 0 < self.not_near_cosine < 1:
            raise ValueError(
                f"`--not_near_cosine` must be above 0 and below 1, got {self.not_near_cosine}"
            )
        conditions = (self.preset, self.min_similarity, self.top_fraction, self.dedup)
        repeatable = (self.where, self.keep_list, self.drop_list, self.not_near)
        if not any(repeatable) and all(condition is None for condition in conditions):
            raise ValueError(
                "expected a condition, got none; give `--min_similarity`, `--top_fraction`, "
                "`--where`, `--keep_list`, `--drop_list`, `--not_near`, `--dedup` or `--preset`"
            )


def config_of(options: argparse.Namespace) -> FilterConfig:
    """Returns what a command line says.

    Raises:
        ValueError: if a value is out of its range, or there is no condition.
    """
    values: dict[str, Any] = vars(options)
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return FilterConfig(**values | lists)


def add_condition_flags(flags: Parser) -> None:
    """Adds the flags that say which rows are kept."""
    conditions = group(flags, "conditions")
    add = conditions.add_argument
    recipes = "; ".join(f"{name}: {preset.does}" for name, preset in PRESETS.items())
    recipes = recipes.replace("%", "%%")  # which argparse fills in
    add("--preset", choices=PRESETS, help=f"published recipe ({recipes})")
    score = conditions.add_mutually_exclusive_group()
    score.add_argument("--min_similarity", type=float, metavar="COSINE", help="least similarity")
    score.add_argument(
        "--top_fraction",
        type=float,
        metavar="SHARE",
        help="least similarity, as what this share of all embedded rows reach; ties are kept",
    )
    add(
        "--where",
        action="append",
        default=[],
        metavar="SQL",
        help="predicate over the columns of a row, in DuckDB's dialect; repeatable",
    )
    for kind, what in (("keep", "keep only"), ("drop", "drop")):
        add(
            f"--{kind}_list",
            action="append",
            default=[],
            type=readable_place,
            metavar="URI",
            help=f"{what} the rows in this list: each line a uid, a sha256, a url, or a host with "
            "its subdomains; repeatable",
        )
    add(
        "--not_near",
        action="append",
        default=[],
        type=place,
        metavar="URI",
        help="drop rows whose image is almost one of this run, which has the same model, such as "
        "an embedded evaluation set; repeatable",
    )
    add(
        "--not_near_cosine",
        type=float,
        default=NOT_NEAR_COSINE,
        metavar="COSINE",
        help=f"cosine from which an image is almost one of --not_near [{NOT_NEAR_COSINE}]",
    )
    add(
        "--dedup",
        choices=("exact", "near"),
        help="keep the best of the rows with one image; near: also of those with almost one",
    )
    add(
        "--dedup_threshold",
        type=float,
        default=DEDUP_THRESHOLD,
        metavar="COSINE",
        help=f"cosine from which two images are almost one [{DEDUP_THRESHOLD}]",
    )
