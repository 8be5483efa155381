"""Which halves of image-text pairs there are, and the columns that a run of one half has not."""

from __future__ import annotations

from collections.abc import Collection

BOTH, IMAGES, TEXTS = PAIRS = ("both", "images", "texts")
_ABSENT = {
    BOTH: frozenset[str](),
    IMAGES: frozenset({"text", "similarity", "text_truncated", "text_embedding"}),
    TEXTS: frozenset(
        {"url", "original_width", "original_height", "sha256", "similarity", "image_embedding"}
    ),
}


def has_column(pairs: str, name: str) -> bool:
    """Tells whether tables of such pairs have a column that those of both halves have."""
    return name not in _ABSENT[pairs]


def check_halves(pairs: str, scores_only: bool, heads: Collection[str]) -> None:
    """Makes sure that a run of one half is asked for something that it has.

    Raises:
        ValueError: if it is not.
    """
    if pairs != BOTH and scores_only:
        raise ValueError(
            f"`pairs={pairs!r}` gives no similarity, and `scores_only` leaves nothing else; leave "
            "one out"
        )
    if pairs == TEXTS and heads:
        raise ValueError("`head` scores images, which `pairs='texts'` has not; leave one out")
