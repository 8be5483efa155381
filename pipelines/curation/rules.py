"""Rules that look at one row alone, those of published datasets among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Rule:
    """A condition that rows are kept by.

    Attributes:
        name: as the table of steps shows it.
        columns: what it needs.
        keeps: maps a batch with these columns to [rows] bool; null counts as no.
    """

    name: str
    columns: tuple[str, ...]
    keeps: Callable[[pa.RecordBatch], np.ndarray]


@dataclass(frozen=True)
class Preset:
    """A published recipe.

    Attributes:
        does: for the help text; says what is left out of the original.
        english: whether captions have to be English, where the extra `language` can tell.
        rules: further conditions on single rows.
        min_similarity, top_fraction: the condition on the score, if any.
    """

    does: str
    english: bool = False
    rules: tuple[Rule, ...] = ()
    min_similarity: float | None = None
    top_fraction: float | None = None


def similarity_rule(least: float, column: str = "similarity", note: str = "") -> Rule:
    """Keeps rows of at least a similarity, compared in float32.

    Args:
        note: ends the name.
    """
    # The shortest digits that give the same float32: those of the float64 would not read as typed.
    name = f"{column} >= {str(np.float32(least))}{note}"
    bound = pa.scalar(least, pa.float32())
    return _rule(name, (column,), lambda b: pc.greater_equal(b[column], bound))


def _rule(name: str, columns: Sequence[str], keeps: Callable[[pa.RecordBatch], Any]) -> Rule:
    return Rule(name, tuple(columns), lambda batch: mask(keeps(batch)))


def mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns [rows] bool; null counts as no."""
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)


def _words(batch: pa.RecordBatch) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(batch["text"])
    return pc.list_value_length(pc.utf8_split_whitespace(trimmed))


def _sides(batch: pa.RecordBatch, choose: Callable[..., pa.Array]) -> pa.Array:
    return choose(batch["original_width"], batch["original_height"], skip_nulls=False)


def _aspect(batch: pa.RecordBatch) -> pa.Array:
    longer, shorter = (_sides(batch, f) for f in (pc.max_element_wise, pc.min_element_wise))
    return pc.divide(pc.cast(longer, pa.float64()), pc.cast(shorter, pa.float64()))


_SIZE = ("original_width", "original_height")
_DATACOMP_BASIC = (
    _rule("more than 2 words", ["text"], lambda b: pc.greater(_words(b), 2)),
    _rule("more than 5 characters", ["text"], lambda b: pc.greater(pc.utf8_length(b["text"]), 5)),
    _rule(
        "shorter side >= 200",
        _SIZE,
        lambda b: pc.greater_equal(_sides(b, pc.min_element_wise), 200),
    ),
    _rule("aspect ratio <= 3", _SIZE, lambda b: pc.less_equal(_aspect(b), 3.0)),
)
_LAION = _rule(
    "5 characters or more", ["text"], lambda b: pc.greater_equal(pc.utf8_length(b["text"]), 5)
)

# DataComp (Gadre et al. 2023, section 4) and LAION-400M (Schuhmann et al. 2021, section 2).
PRESETS: Mapping[str, Preset] = {
    "datacomp-basic": Preset(
        "captions and image sizes as DataComp's basic filter; English with the extra `language`",
        english=True,
        rules=_DATACOMP_BASIC,
    ),
    "clip-l14-30pct": Preset("the best 30 %, for the scores of a ViT-L/14", top_fraction=0.3),
    "laion400m": Preset(
        "similarity of 0.3 and captions of 5 characters; without its rule on file sizes",
        rules=(_LAION,),
        min_similarity=0.3,
    ),
}
