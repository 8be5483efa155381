"""Zero-shot classification by prompts (Radford et al. 2021, section 3.1.4).

A class is the mean of the normalised text embeddings of its prompts, normalised again; an image
belongs to the class of the largest cosine. Torch is imported with the first encoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

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
        ValueError: if there is no label or no template, a label is blank or there twice, or a
            template has no `{}`.
    """
    from clip_core.encoding import encode_tokens

    check_labels(labels)
    check_templates(templates)
    weights = []
    for first in range(0, len(labels), _LABELS_AT_ONCE):
        some = labels[first : first + _LABELS_AT_ONCE]
        prompts = [template.replace(SLOT, label) for label in some for template in templates]
        tokens = model.tokenizer.tokenize(prompts, truncate=True)
        texts = encode_tokens(model.clip, tokens).reshape(len(some), len(templates), -1)
        mean = texts.mean(axis=1)
        weights.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(weights).astype(np.float32, copy=False)


def zero_shot_logits(
    image_embeddings: np.ndarray, weights: np.ndarray, logit_scale: float
) -> np.ndarray:
    """Returns [images, labels] float32: the cosines times the scale that the model was trained to.

    Args:
        image_embeddings: [images, dim], L2-normalised.
        weights: [labels, dim] of `zero_shot_weights`.
        logit_scale: factor, not its logarithm; 100 for the published models.
    """
    return np.float32(logit_scale) * (image_embeddings @ weights.T)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns [images, labels] float32 probabilities; each row sums to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def check_labels(labels: Sequence[str]) -> None:
    """Refuses labels that cannot be told apart.

    Raises:
        ValueError: if there is none, or one is blank or there twice.
    """
    if not labels:
        raise ValueError("expected at least one label, got none")
    if any(not label.strip() for label in labels):
        raise ValueError("expected labels of text, got a blank one")
    label, times = Counter(labels).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"expected distinct labels, got {label!r} more than once; remove the duplicates"
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
