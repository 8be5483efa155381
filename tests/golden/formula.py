"""Two CLIPs whose weights follow from a formula, and the inputs of their golden features.

The formula is one of whole numbers: no random generator is in it, and no sine, whose last bit
differs from machine to machine. Every value is a float16, so that matrices lose nothing when they
are stored as the published archives store them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CONTEXT_LENGTH, VOCAB_SIZE, HEAD_WIDTH = 77, 49408, 64
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a CLIP; `vision_layers` are those of a ViT, or of the four stages of a ResNet.

    Heads are 64 wide everywhere. `patch` is that of a ViT, pixels.
    """

    embed_dim: int
    image_size: int
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    text_width: int
    text_layers: int
    patch: int = 0


MODELS = {
    "formula-vit": Sizes(96, 64, 2, 128, 128, 3, patch=16),
    "formula-rn": Sizes(80, 64, (1, 2, 1, 2), 16, 64, 2),
}


def weights_of(sizes: Sizes) -> dict[str, np.ndarray]:
    """Returns all weights by the names of the released state dicts, each float16."""
    vision = _vit_shapes if isinstance(sizes.vision_layers, int) else _resnet_shapes
    shapes = dict(vision(sizes)) | dict(_text_shapes(sizes))
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def image_inputs(sizes: Sizes, images: int = 5) -> np.ndarray:
    """Returns standardised pixels [images, 3, size, size] float32: squares of 8 under a grain."""
    coarse = values("squares", (images, 3, sizes.image_size // 8, sizes.image_size // 8))
    grain = values("grain", (images, 3, sizes.image_size, sizes.image_size))
    squares = coarse.repeat(8, axis=2).repeat(8, axis=3)
    return (2 * squares + grain / 2).astype(np.float16).astype(np.float32)


def token_inputs() -> np.ndarray:
    """Returns token rows [9, 77] int64 from the golden ones: the shortest to the longest."""
    rows = json.loads(gzip.decompress((HERE / "tokens.json.gz").read_bytes()))
    ids = sorted((row["ids"] for row in rows), key=lambda row: (len(row), row))
    chosen = [*ids[::250], ids[-1]]
    return np.array([row + [0] * (CONTEXT_LENGTH - len(row)) for row in chosen], np.int64)


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns numbers in [-1, 1): 48271 n^2 modulo the prime 2^31 - 1, scaled, in C order.

    The first n depends on the name, so that no two weights are alike.
    """
    first = 1000 + 17 * sum(place * byte for place, byte in enumerate(name.encode(), 1))
    n = np.arange(first, first + prod(shape), dtype=np.int64)
    return (48271 * n * n % 2147483647 / 2147483647 * 2 - 1).reshape(shape)


def _weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a weight of about the size that training gives it."""
    if name == "logit_scale":
        return np.array(2.5, np.float16)
    numbers, kind = values(name, shape), name.rsplit(".", 1)[-1]
    if kind == "running_var" or (kind == "weight" and len(shape) == 1):
        return (1 + numbers / 2).astype(np.float16)
    if kind in ("bias", "in_proj_bias", "running_mean") or "embedding" in name:
        return (numbers / 2).astype(np.float16)
    inputs = shape[0] if kind in ("proj", "text_projection") else prod(shape[1:])
    return (2 * numbers / inputs**0.5).astype(np.float16)


def _text_shapes(sizes: Sizes) -> Shapes:
    width = sizes.text_width
    yield "positional_embedding", (CONTEXT_LENGTH, width)
    yield "text_projection", (width, sizes.embed_dim)
    yield "logit_scale", ()
    yield "token_embedding.weight", (VOCAB_SIZE, width)
    yield from _transformer_shapes("transformer", width, sizes.text_layers)
    yield from _affine_shapes("ln_final", width)


def _vit_shapes(sizes: Sizes) -> Shapes:
    width, grid = sizes.vision_width, sizes.image_size // sizes.patch
    yield "visual.class_embedding", (width,)
    yield "visual.positional_embedding", (grid**2 + 1, width)
    yield "visual.proj", (width, sizes.embed_dim)
    yield "visual.conv1.weight", (width, 3, sizes.patch, sizes.patch)
    yield from _affine_shapes("visual.ln_pre", width)
    yield from _transformer_shapes("visual.transformer", width, sizes.vision_layers)
    yield from _affine_shapes("visual.ln_post", width)


def _transformer_shapes(prefix: str, width: int, layers: int) -> Shapes:
    for layer in range(layers):
        block = f"{prefix}.resblocks.{layer}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _linear_shapes(f"{block}.attn.out_proj", width, width)
        yield from _affine_shapes(f"{block}.ln_1", width)
        yield from _linear_shapes(f"{block}.mlp.c_fc", width, 4 * width)
        yield from _linear_shapes(f"{block}.mlp.c_proj", 4 * width, width)
        yield from _affine_shapes(f"{block}.ln_2", width)


def _resnet_shapes(sizes: Sizes) -> Shapes:
    width = sizes.vision_width
    stem = ((3, width // 2), (width // 2, width // 2), (width // 2, width))
    for number, (channels_in, channels) in enumerate(stem, 1):
        yield f"visual.conv{number}.weight", (channels, channels_in, 3, 3)
        yield from _batch_norm_shapes(f"visual.bn{number}", channels)
    channels_in = width
    for stage, blocks in enumerate(sizes.vision_layers):
        for block in range(blocks):
            channels = width * 2**stage
            prefix = f"visual.layer{stage + 1}.{block}"
            yield from _bottleneck_shapes(prefix, channels_in, channels, block == 0)
            channels_in = 4 * channels
    yield "visual.attnpool.positional_embedding", ((sizes.image_size // 32) ** 2 + 1, channels_in)
    for name in ("k_proj", "q_proj", "v_proj"):
        yield from _linear_shapes(f"visual.attnpool.{name}", channels_in, channels_in)
    yield from _linear_shapes("visual.attnpool.c_proj", channels_in, sizes.embed_dim)


def _bottleneck_shapes(prefix: str, channels_in: int, channels: int, first: bool) -> Shapes:
    convolutions = (
        (channels_in, channels, 1),
        (channels, channels, 3),
        (channels, 4 * channels, 1),
    )
    for number, (inside, outside, side) in enumerate(convolutions, 1):
        yield f"{prefix}.conv{number}.weight", (outside, inside, side, side)
        yield from _batch_norm_shapes(f"{prefix}.bn{number}", outside)
    if first:
        yield f"{prefix}.downsample.0.weight", (4 * channels, channels_in, 1, 1)
        yield from _batch_norm_shapes(f"{prefix}.downsample.1", 4 * channels)


def _linear_shapes(prefix: str, width_in: int, width_out: int) -> Shapes:
    yield f"{prefix}.weight", (width_out, width_in)
    yield f"{prefix}.bias", (width_out,)


def _affine_shapes(prefix: str, width: int) -> Shapes:
    yield f"{prefix}.weight", (width,)
    yield f"{prefix}.bias", (width,)


def _batch_norm_shapes(prefix: str, channels: int) -> Shapes:
    yield from _affine_shapes(prefix, channels)
    yield f"{prefix}.running_mean", (channels,)
    yield f"{prefix}.running_var", (channels,)
