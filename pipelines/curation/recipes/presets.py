"""Published recipes: what each keeps, where that is written, and what it needs.

DataComp: Gadre et al. 2023, section 4 and appendix, and its `baselines/apply_filter.py`.
LAION-400M: Schuhmann et al. 2021, section 2. LAION-2B: Schuhmann et al. 2022, as DataComp does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curation.rules import Rule, row_rule

FASTTEXT, CLD3 = "fastText", "CLD3"
_ENTITIES, _CLUSTERS = ("synsets",), ("centroids", "target_clusters")
BASE, LARGE = "ViT-B/32", "ViT-L/14"


@dataclass(frozen=True)
class Preset:
    """A published recipe.

    Attributes:
        does: for the help text; says what is left out of the original.
        english: which model tells that captions are English, where its package is there.
        rules: further conditions on single rows.
        min_similarity, top_fraction: the condition on the score, if any.
        architecture: the model whose score or embedding the recipe is about.
        entities: whether captions have to name a thing of a list (`synsets`).
        clusters: whether images have to lie in clusters of a file (`centroids`).
    """

    does: str
    english: str | None = None
    rules: tuple[Rule, ...] = ()
    min_similarity: float | None = None
    top_fraction: float | None = None
    architecture: str | None = None
    entities: bool = False
    clusters: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the flags without which it means nothing."""
        return (*_ENTITIES * self.entities, *_CLUSTERS * self.clusters)


def _words(batch: pa.RecordBatch) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(batch["text"])
    return pc.list_value_length(pc.utf8_split_whitespace(trimmed))


def _tokens(batch: pa.RecordBatch) -> pa.Array:
    """Counts as fastText's tokenizer does: by ASCII's blanks, and each line break is a word."""
    text = batch["text"]
    return pc.add(
        pc.count_substring_regex(text, r"[^ \n\r\t\x0b\x0c\x00]+"), pc.count_substring(text, "\n")
    )


def _longer(characters: int) -> Rule:
    name = f"more than {characters} characters"
    return row_rule(name, ["text"], lambda b: pc.greater(pc.utf8_length(b["text"]), characters))


def _sides(batch: pa.RecordBatch, choose: Any) -> pa.Array:
    return choose(batch["original_width"], batch["original_height"], skip_nulls=False)


def _aspect(batch: pa.RecordBatch) -> pa.Array:
    longer, shorter = (_sides(batch, f) for f in (pc.max_element_wise, pc.min_element_wise))
    return pc.divide(pc.cast(longer, pa.float64()), pc.cast(shorter, pa.float64()))


_SIZE = ("original_width", "original_height")
_BASIC = (
    row_rule("more than 2 words", ["text"], lambda b: pc.greater(_words(b), 2)),
    _longer(5),
    row_rule(
        "shorter side >= 200",
        _SIZE,
        lambda b: pc.greater_equal(_sides(b, pc.min_element_wise), 200),
    ),
    row_rule("aspect ratio <= 3", _SIZE, lambda b: pc.less_equal(_aspect(b), 3.0)),
)
_CAPTION = (
    row_rule("more than 1 word", ["text"], lambda b: pc.greater(_tokens(b), 1)),
    _longer(5),
)
_LAION = row_rule(
    "5 characters or more", ["text"], lambda b: pc.greater_equal(pc.utf8_length(b["text"]), 5)
)

PRESETS: Mapping[str, Preset] = {
    "datacomp-basic": Preset(
        "captions and image sizes as DataComp's basic filter; English with the extra `language`",
        english=FASTTEXT,
        rules=_BASIC,
    ),
    "datacomp-text-based": Preset(
        "English captions with a word for one of the synsets, as DataComp's text-based filter",
        english=FASTTEXT,
        entities=True,
    ),
    "datacomp-image-based": Preset(
        "images in the target clusters, as DataComp's image-based filter",
        english=FASTTEXT,
        rules=_CAPTION,
        clusters=True,
        architecture=LARGE,
    ),
    "datacomp-image-based-clip-l14-30pct": Preset(
        "the same and the best 30 %, DataComp's best",
        english=FASTTEXT,
        rules=_CAPTION,
        clusters=True,
        top_fraction=0.3,
        architecture=LARGE,
    ),
    "clip-l14-30pct": Preset(
        "the best 30 %, for the scores of a ViT-L/14", top_fraction=0.3, architecture=LARGE
    ),
    "laion2b": Preset(
        "similarity of 0.28 by a ViT-B/32, and English with the extra `language`",
        english=CLD3,
        min_similarity=0.28,
        architecture=BASE,
    ),
    "laion400m": Preset(
        "similarity of 0.3 by a ViT-B/32 and captions of 5 characters; without its rule on file "
        "sizes",
        rules=(_LAION,),
        min_similarity=0.3,
        architecture=BASE,
    ),
}
