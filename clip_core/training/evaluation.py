"""How well a model retrieves pairs that it was not trained on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clip_core.model import Clip
from clip_core.training.contrastive import (
    retrieval_recall,
)
from clip_core.training.trainer import Pairs

EVALUATION_BATCH = 256


@torch.inference_mode()
def held_out_recall(clip: Clip, pairs: Pairs) -> dict[str, float]:
    """Scores retrieval among pairs that were not trained on: recall@1 and @5, both ways.

    Captions that are equal to the model are one: any of their images is right.
    """
    clip.eval()
    image, text = (torch.cat(parts) for parts in zip(*_embed(clip, pairs), strict=True))
    scores = {}
    captions = torch.from_numpy(pairs.tokens)
    for k in (1, 5):
        to_text, to_image = retrieval_recall(image, text, k, captions)
        scores[f"image_to_text_recall@{k}"] = to_text
        scores[f"text_to_image_recall@{k}"] = to_image
    return scores


def _embed(clip: Clip, pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
    device = clip.logit_scale.device
    parts = []
    for first in range(0, len(pairs), EVALUATION_BATCH):
        rows = slice(first, first + EVALUATION_BATCH)
        pixels = torch.from_numpy(np.array(pairs.pixels[rows])).to(device)
        tokens = torch.from_numpy(pairs.tokens[rows]).to(device)
        parts.append((clip.encode_image(pixels, True), clip.encode_text(tokens, True)))
    return parts
