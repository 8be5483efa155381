"""What the models of a run are given: pixels and tokens, made once for all that agree on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from schemas.pairs import BOTH, IMAGES, TEXTS

Inputs = tuple[int | None, int | None]


@dataclass(frozen=True)
class ModelInputs:
    """The distinct preprocessings and tokenizers of a run's models.

    Attributes:
        of_model: for each model, which preprocessing and which tokenizer is its own; None of the
            half that is not embedded.
    """

    preprocesses: tuple[Preprocess, ...]
    tokenizers: tuple[Tokenizer, ...]
    of_model: tuple[Inputs, ...]

    @classmethod
    def of(
        cls,
        preprocesses: Sequence[Preprocess],
        tokenizers: Sequence[Tokenizer],
        pairs: str = BOTH,
    ) -> ModelInputs:
        """Finds what is distinct among those of each model, in the order of the models."""
        distinct = tuple(dict.fromkeys(preprocesses))
        by_identity = {tokenizer.identity: tokenizer for tokenizer in tokenizers}
        identities = list(by_identity)
        of_model = tuple(
            (distinct.index(preprocess), identities.index(tokenizer.identity))
            for preprocess, tokenizer in zip(preprocesses, tokenizers, strict=True)
        )
        if pairs == IMAGES:
            return cls(distinct, (), tuple((pixels, None) for pixels, _ in of_model))
        if pairs == TEXTS:
            return cls((), tuple(by_identity.values()), tuple((None, own) for _, own in of_model))
        return cls(distinct, tuple(by_identity.values()), of_model)

    @property
    def pairs(self) -> str:
        """Which halves of pairs are embedded."""
        return IMAGES if not self.tokenizers else BOTH if self.preprocesses else TEXTS

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return sum(3 * preprocess.size**2 for preprocess in self.preprocesses)
