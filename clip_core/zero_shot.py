"""Zero-shot classification by prompts (Radford et al. 2021, section 3.1.4).

A class is the mean of the normalised text embeddings of its prompts, normalised again; an image
belongs to the class of the largest cosine. Torch is imported with the first encoding.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clip_core.tokenizer import clean

if TYPE_CHECKING:
    from clip_core.loading import ClipModel

SLOT = "{}"
BARE_TEMPLATES = (SLOT,)
# Wordings that hold for most things that can be in a picture.
SIMPLE_TEMPLATES = (
    "a {}",
    "a photo of a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "an image of one {}",
    "here is a {}",
    "this is a {}",
    "there is a {} in the picture",
)
_LABELS_AT_ONCE = 256


def zero_shot_weights(
    model: ClipModel, labels: Sequence[str], templates: Sequence[str] = SIMPLE_TEMPLATES
) -> np.ndarray:
    """Embeds labels by an ensemble of prompts.

    Args:
        labels: names of the classes, distinct.
        templates: prompts with `{}` where the label goes; prompts longer than the model's context
            are cut.

    Returns:
        [labels, dim] float32, L2-normalised.

    Raises:
        ValueError: if there is no label or no template, a label is blank or no other than another
            one for the model, or a template has no `{}`.
    """
    from clip_core.inference.encoding import encode_tokens

    check_labels(labels)
    check_templates(templates)
    weights = np.empty((len(labels), model.config.embed_dim), np.float32)
    seen: list[bytes] = []  # of each label, a digest of its prompts as the model gets them
    for first in range(0, len(labels), _LABELS_AT_ONCE):
        some = labels[first : first + _LABELS_AT_ONCE]
        prompts = [template.replace(SLOT, label) for label in some for template in templates]
        tokens = model.tokenizer.tokenize(prompts, truncate=True)
        rows = tokens.reshape(len(some), -1)
        seen += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        texts = encode_tokens(model.clip, tokens).reshape(len(some), len(templates), -1)
        mean = texts.mean(axis=1)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        weights[first : first + len(some)] = mean
    _check_distinct(labels, seen)
    return weights


def zero_shot_logits(
    image_embeddings: np.ndarray, weights: np.ndarray, logit_scale: float
) -> np.ndarray:
    """Returns [images, labels] float32: the cosines times the scale that the model was trained to.

    Args:
        image_embeddings: [images, dim], L2-normalised.
        weights: [labels, dim] of `zero_shot_weights`.
        logit_scale: factor, not its logarithm; 100 for the published models.
    """
    found: np.ndarray = np.float32(logit_scale) * (image_embeddings @ weights.T)
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns [images, labels] float32 probabilities; each row sums to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def check_labels(labels: Sequence[str]) -> None:
    """Refuses labels that cannot be told apart.

    Raises:
        ValueError: if there is none, or one is blank or there twice, also once it is cleaned.
    """
    if not labels:
        raise ValueError("expected at least one label, got none")
    cleaned = [clean(label) for label in labels]
    if not all(cleaned):
        raise ValueError("expected labels of text, got a blank one")
    label, times = Counter(labels).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"expected distinct labels, got {label!r} more than once; remove the duplicates"
        )
    _check_distinct(labels, cleaned)


def _check_distinct(labels: Sequence[str], seen_as: Sequence[Hashable]) -> None:
    """Refuses labels that are one for the model, such as `Crane` and `crane`."""
    first: dict[Hashable, str] = {}
    for label, seen in zip(labels, seen_as, strict=True):
        other = first.setdefault(seen, label)
        if other is not label:
            raise ValueError(
                f"expected labels that the model can tell apart, got {other!r} and {label!r}, "
                "which are one to it once lowered, cleaned and cut to its context; remove one"
            )


def check_templates(templates: Sequence[str]) -> None:
    """Refuses templates that would give every label the same prompt.

    Raises:
        ValueError: if there is none, or one has no `{}`.
    """
    if not templates:
        raise ValueError("expected at least one template, got none")
    without = next((template for template in templates if SLOT not in template), None)
    if without is not None:
        raise ValueError(
            f"expected `{{}}` in every template, got {without!r}; put it where the label goes"
        )
