"""Encodes batches of arrays with a loaded model, with the exact savings that batching allows."""

from __future__ import annotations

import numpy as np
import torch

from clip_core.model import Clip

# Captions of one bucket share a length after sorting, so hardly any padding is computed; larger
# buckets would pad more, smaller ones would leave the matrix products too thin.
TEXT_BUCKET = 16


@torch.inference_mode()
def encode_pixels(clip: Clip, pixels: np.ndarray) -> np.ndarray:
    """Embeds decoded images.

    Args:
        clip: a model in evaluation mode.
        pixels: [batch, 3, size, size] uint8; standardised on the model's device.

    Returns:
        [batch, embed_dim] float32, L2-normalised.
    """
    on_device = torch.from_numpy(pixels).to(clip.logit_scale.device)
    return clip.encode_image(on_device, normalize=True).cpu().numpy()


@torch.inference_mode()
def encode_tokens(clip: Clip, tokens: np.ndarray) -> np.ndarray:
    """Embeds token rows: equal captions once, the others in buckets of similar length.

    Each bucket is cut at its longest end token, which causal attention makes exact.

    Args:
        clip: a model in evaluation mode.
        tokens: [batch, context_length] int64.

    Returns:
        [batch, embed_dim] float32, L2-normalised, in the order of `tokens`.
    """
    distinct, row_of = np.unique(tokens, axis=0, return_inverse=True)
    by_length = np.argsort(distinct.argmax(axis=1), kind="stable")
    embeddings = np.empty((len(distinct), clip.config.embed_dim), np.float32)
    for first in range(0, len(by_length), TEXT_BUCKET):
        bucket = by_length[first : first + TEXT_BUCKET]
        on_device = torch.from_numpy(distinct[bucket]).to(clip.logit_scale.device)
        embeddings[bucket] = clip.encode_text(on_device, normalize=True).cpu().numpy()
    return embeddings[row_of.reshape(-1)]
