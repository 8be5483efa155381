"""Encodes batches of arrays with a loaded model, with the exact savings that batching allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from clip_core.inference.ragged import encode_ragged
from clip_core.inference.transfer import upload, upload_joined
from clip_core.model import Clip

# Padded tokens over real tokens of a bucket of captions, at most: none are padded on a processor,
# some on a GPU, for which many small buckets are worse.
CPU_PADDING = 1.0
DEVICE_PADDING = 1.1

# Images encoded at once on a processor: their activations should stay in its cache. Of smaller ones
# than these as many pixels, so that what each call costs does not count.
CPU_IMAGES, CPU_SIZE, MOST_CPU_IMAGES = 16, 224, 64


@torch.inference_mode()
def encode_pairs(
    clip: Clip, images: Sequence[np.ndarray] | None, tokens: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Embeds images and captions; captions are prepared while a GPU encodes the images.

    Args:
        clip: a model in evaluation mode.
        images: blocks of images, at least one in all; each [images, 3, size, size] uint8.
        tokens: [captions, context_length] int64.

    Returns:
        [images, embed_dim] and [captions, embed_dim] float32, L2-normalised; None of what is None.
    """
    found = (  # begun, on a GPU
        None if images is None else _embed_pixels(clip, images),
        None if tokens is None else _embed_tokens(clip, tokens),
    )
    image, text = (None if half is None else half.cpu().numpy() for half in found)
    return image, text


@torch.inference_mode()
def encode_pixels(clip: Clip, pixels: np.ndarray) -> np.ndarray:
    """Embeds decoded images.

    Args:
        clip: a model in evaluation mode.
        pixels: [batch, 3, size, size] uint8, at least one; standardised on the model's device.

    Returns:
        [batch, embed_dim] float32, L2-normalised.
    """
    return _embed_pixels(clip, [pixels]).cpu().numpy()


@torch.inference_mode()
def encode_tokens(clip: Clip, tokens: np.ndarray) -> np.ndarray:
    """Embeds token rows: equal captions once, the others side by side in buckets by length.

    Each bucket is cut at its longest end token, which causal attention makes exact.

    Args:
        clip: a model in evaluation mode.
        tokens: [batch, context_length] int64.

    Returns:
        [batch, embed_dim] float32, L2-normalised, in the order of `tokens`.
    """
    return _embed_tokens(clip, tokens).cpu().numpy()


def _embed_pixels(clip: Clip, images: Sequence[np.ndarray]) -> Tensor:
    device = clip.logit_scale.device
    joined = upload_joined(images, device)
    pieces = joined.split(_images_at_once(joined) if device.type == "cpu" else len(joined))
    return torch.cat([clip.encode_image(piece, normalize=True) for piece in pieces])


def _images_at_once(pixels: Tensor) -> int:
    fitting = CPU_IMAGES * CPU_SIZE**2 // pixels.shape[-1] ** 2
    return max(CPU_IMAGES, min(fitting, MOST_CPU_IMAGES))


def _embed_tokens(clip: Clip, tokens: np.ndarray) -> Tensor:
    if not len(tokens):
        return torch.empty(0, clip.config.embed_dim)
    distinct, row_of = np.unique(tokens, axis=0, return_inverse=True)
    device, lengths = clip.logit_scale.device, distinct.argmax(axis=1) + 1
    padding = CPU_PADDING if device.type == "cpu" else DEVICE_PADDING
    groups = list(buckets(lengths, padding))
    cut = [torch.from_numpy(distinct[rows, : lengths[rows].max()]) for rows in groups]
    place = np.argsort(np.concatenate(groups))  # of each distinct caption in the groups
    return encode_ragged(clip, cut)[upload(torch.from_numpy(place[row_of.reshape(-1)]), device)]


def buckets(lengths: np.ndarray, max_padding: float) -> Iterator[np.ndarray]:
    """Groups captions of similar length, so that hardly any padding is computed.

    Args:
        lengths: [captions] int, tokens up to and with the end token.
        max_padding: padded tokens of a bucket over its real ones, at most; 1 for equal lengths.

    Yields:
        Indices into `lengths`, the longest captions first.
    """
    order = np.argsort(-lengths, kind="stable")
    first, real = 0, 0
    for index, row in enumerate(order):
        real += lengths[row]
        padded = lengths[order[first]] * (index - first + 1)
        if padded > max_padding * real:
            yield order[first:index]
            first, real = index, lengths[row]
    if len(order):
        yield order[first:]
