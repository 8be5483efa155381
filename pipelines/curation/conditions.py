"""The conditions of `filter` on its command line, and their checks."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import place, readable_place
from pipelines.curation.recipes.presets import PRESETS

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
    within: tuple[str, ...]
    where: tuple[str, ...]
    not_near: tuple[str, ...]
    not_near_cosine: float
    keep_list: tuple[str, ...]
    drop_list: tuple[str, ...]
    synsets: str | None
    centroids: str | None
    target_clusters: str | None
    dedup: str | None
    dedup_threshold: float
    model_name: str | None
    dry_run: bool
    overwrite: bool
    allow_incomplete: bool

    def __post_init__(self) -> None:
        if self.output is None and not self.dry_run:
            raise ValueError("expected `output`, or `dry_run` to see what would be kept")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise ValueError(
                f"`min_similarity` must be between -1 and 1, got {self.min_similarity}"
            )
        if self.top_fraction is not None and not 0 < self.top_fraction <= 1:
            raise ValueError(
                f"`top_fraction` must be above 0 and at most 1, got {self.top_fraction}"
            )
        if not LEAST_THRESHOLD <= self.dedup_threshold < 1:
            raise ValueError(
                f"`dedup_threshold` must be at least {LEAST_THRESHOLD} and below 1, got "
                f"{self.dedup_threshold}"
            )
        if not 0 < self.not_near_cosine < 1:
            raise ValueError(
                f"`not_near_cosine` must be above 0 and below 1, got {self.not_near_cosine}"
            )
        self._check_recipe()
        if self.within and self.top_fraction is None:
            raise ValueError("expected `top_fraction` with `within`, whose groups it is of")
        conditions = (self.preset, self.min_similarity, self.top_fraction, self.dedup)
        repeatable = (self.where, self.keep_list, self.drop_list, self.not_near)
        if not any(repeatable) and all(condition is None for condition in conditions):
            raise ValueError(
                "expected a condition, got none; give `min_similarity`, `top_fraction`, "
                "`where`, `keep_list`, `drop_list`, `not_near`, `dedup` or `preset`"
            )

    def _check_recipe(self) -> None:
        """Checks the files of a recipe: those that it needs are there, and no others."""
        needs = PRESETS[self.preset].needs if self.preset else ()
        for flag in ("synsets", "centroids", "target_clusters"):
            is_given, is_needed = getattr(self, flag) is not None, flag in needs
            if is_needed and not is_given:
                raise ValueError(f"expected `{flag}` with the preset {self.preset}, got none")
            if is_given and not is_needed:
                raise ValueError(f"`{flag}` belongs to a `preset` that needs it; leave it out")


def config_of(options: argparse.Namespace) -> FilterConfig:
    """Returns what a command line says.

    Raises:
        ValueError: if a value is out of its range, or there is no condition.
    """
    every, own = vars(options), {field.name for field in fields(FilterConfig)}
    values = {name: value for name, value in every.items() if name in own}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    within = tuple(name.strip() for name in (options.within or "").split(",") if name.strip())
    return FilterConfig(**values | lists | {"within": within})


def add_condition_flags(flags: Parser) -> None:
    """Adds the flags that say which rows are kept."""
    conditions = group(flags, "conditions")
    add = conditions.add_argument
    recipes = "; ".join(f"{name}: {preset.does}" for name, preset in PRESETS.items())
    recipes = recipes.replace("%", "%%")  # which argparse fills in
    add("--preset", choices=PRESETS, metavar="NAME", help=f"published recipe ({recipes})")
    score = conditions.add_mutually_exclusive_group()
    score.add_argument("--min_similarity", type=float, metavar="COSINE", help="least similarity")
    score.add_argument(
        "--top_fraction",
        type=float,
        metavar="SHARE",
        help="least similarity, as what this share of all embedded rows reach; ties are kept",
    )
    add(
        "--within",
        metavar="COLUMN,...",
        help="take --top_fraction within each group of rows with equal values in these columns",
    )
    add(
        "--where",
        action="append",
        default=[],
        metavar="SQL",
        help="predicate over the columns of a row, in DuckDB's dialect; repeatable",
    )
    add(
        "--synsets",
        type=readable_place,
        metavar="URI",
        help="list of WordNet's synsets, one a line, for --preset datacomp-text-based",
    )
    add(
        "--centroids",
        type=readable_place,
        metavar="URI",
        help=".npy of centroids [clusters, dim], for --preset datacomp-image-based...",
    )
    add(
        "--target_clusters",
        type=readable_place,
        metavar="URI",
        help=".npy with the numbers of the clusters to keep",
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
