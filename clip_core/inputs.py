"""Says in one sentence what is wrong with what a model is called with, and what to do instead."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor


def check_image(image: Any) -> None:
    """Refuses what is no image.

    Raises:
        TypeError: names what was given.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"expected an image as `PIL.Image.open(path)` gives, got {_kind(image)}; make one of "
            "an array with `PIL.Image.fromarray`, and preprocess several one by one"
        )


def check_pixels(pixels: Any, size: int) -> None:
    """Refuses what is no batch of images of a model's size.

    Raises:
        TypeError, ValueError: names what was given.
    """
    remedy = "stack them: `torch.stack([model.preprocess(image) for image in images])`"
    if not isinstance(pixels, Tensor):
        raise TypeError(f"expected a tensor of pixels, got {_kind(pixels)}; {remedy}")
    if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
        raise ValueError(
            f"expected pixels [batch, 3, {size}, {size}], got {list(pixels.shape)}; {remedy}"
        )
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise ValueError(f"expected pixels as uint8 or floats, got {pixels.dtype}; {remedy}")


def check_tokens(tokens: Any, context_length: int) -> None:
    """Refuses what is no batch of token rows.

    Raises:
        TypeError, ValueError: names what was given.
    """
    remedy = "make them with `model.tokenize(texts)`"
    if not isinstance(tokens, Tensor):
        raise TypeError(f"expected a tensor of token rows, got {_kind(tokens)}; {remedy}")
    if tokens.ndim != 2 or tokens.shape[1] > context_length or tokens.is_floating_point():
        raise ValueError(
            f"expected token rows [batch, {context_length}] of ints, got {list(tokens.shape)} of "
            f"{tokens.dtype}; {remedy}"
        )


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
