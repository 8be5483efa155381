"""The published heads, told by their shapes: what stands between their layers, which no file says.

LAION's aesthetic predictors (linear, 2022), its improved one (an MLP, 2022) and its detector of
unsafe images for ViT-H/14 (an MLP, 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.probes.head import NONE, RELU


@dataclass(frozen=True)
class PublishedHead:
    """A published head.

    Attributes:
        what: for messages.
        dim: of the embeddings that it takes.
        outputs: of each layer.
        positions: numbers in the names of its layers; empty for a single layer without a number.
        between, end: as `Head` has them.
        architectures: of the models whose embeddings it was trained on.
    """

    what: str
    dim: int
    outputs: tuple[int, ...]
    positions: tuple[int, ...]
    between: tuple[str, ...]
    end: str
    architectures: tuple[str, ...]


PUBLISHED = (
    PublishedHead("LAION's linear aesthetic predictor", 768, (1,), (), (), NONE, ("ViT-L/14",)),
    PublishedHead(
        "LAION's linear aesthetic predictor",
        512,
        (1,),
        (),
        (),
        NONE,
        ("ViT-B/32", "ViT-B/16"),
    ),
    PublishedHead(
        "LAION's improved aesthetic predictor",
        768,
        (1024, 128, 64, 16, 1),
        (0, 2, 4, 6, 7),
        (NONE,) * 4,  # dropout alone, which does nothing behind training
        NONE,
        ("ViT-L/14",),
    ),
    PublishedHead(
        "LAION's detector of unsafe images",
        1024,
        (1024, 2048, 1024, 256, 128, 16, 1),
        (0, 3, 6, 9, 12, 15, 16),
        (*(RELU,) * 5, NONE),
        NONE,
        ("ViT-H-14",),
    ),
)


def published_like(
    dim: int, outputs: Sequence[int], positions: Sequence[int]
) -> PublishedHead | None:
    """Returns the published head with these shapes; None if there is none."""
    shapes = dim, tuple(outputs), tuple(positions)
    return next((h for h in PUBLISHED if (h.dim, h.outputs, h.positions) == shapes), None)
