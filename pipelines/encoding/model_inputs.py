"""What the models of a run are given: pixels and tokens, made once for all that agree on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelInputs:
    """The distinct preprocessings and tokenizers of a run's models.

    Attributes:
        of_model: for each model, which preprocessing and which tokenizer is its own.
    """

    preprocesses: tuple[Preprocess, ...]
    tokenizers: tuple[Tokenizer, ...]
    of_model: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, preprocesses: Sequence[Preprocess], tokenizers: Sequence[Tokenizer]) -> ModelInputs:
        """Finds what is distinct among those of each model, in the order of the models."""
        distinct = tuple(dict.fromkeys(preprocesses))
        by_identity = {tokenizer.identity: tokenizer for tokenizer in tokenizers}
        identities = list(by_identity)
        of_model = tuple(
            (distinct.index(preprocess), identities.index(tokenizer.identity))
            for preprocess, tokenizer in zip(preprocesses, tokenizers, strict=True)
        )
        return cls(distinct, tuple(by_identity.values()), of_model)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return sum(3 * preprocess.size**2 for preprocess in self.preprocesses)
