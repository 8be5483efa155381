"""A self-test of a model: its embeddings on a device and in a precision, against plain fp32.

The reference is the model in fp32 on the CPU with nothing batched, cut or shared; what is tested is
the way the pipeline encodes. The inputs are made here, so the test needs no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from clip_core.inference.encoding import encode_pixels, encode_tokens
from clip_core.loading import ClipModel

CAPTIONS = (
    "a red circle",
    "a photo of a dog",
    "Two children, laughing, run along a beach at sunset; behind them the sea is calm.",
    "OIL ON CANVAS, 1889",
    "naïve café – “quoted” text &amp; symbols: 100 % (½)",
    "小さな猫が窓のそばで眠っている",
    "x",
    "the quick brown fox jumps over the lazy dog " * 12,
)
# Width and height in shares of the input size.
_SHAPES = (
    (2.1, 1.4),
    (0.6, 0.7),
    (3.0, 1.1),
    (1.0, 2.3),
    (1.0, 1.0),
    (1.3, 1.3),
    (0.9, 1.8),
    (4, 3),
)


@dataclass(frozen=True)
class Deviation:
    """Largest deviations found.

    Attributes:
        image, text: of an embedding, 1 minus the cosine with the reference.
        similarity: of the similarity of any image and any caption, absolute.
    """

    image: float
    text: float
    similarity: float

    def within(self, limit: Deviation) -> bool:
        """Tells whether each is within its limit, which NaN is not."""
        return (
            self.image <= limit.image
            and self.text <= limit.text
            and self.similarity <= limit.similarity
        )


# What is rounding, by precision, with room for the depth of the largest models; no more than a
# tenth of it was seen on any family (see the README).
TOLERANCE = {
    "fp32": Deviation(1e-6, 1e-6, 1e-5),
    "fp16": Deviation(1e-4, 1e-4, 5e-3),
    "bf16": Deviation(2e-3, 2e-3, 2e-2),
}


def measure(reference: ClipModel, model: ClipModel) -> Deviation:
    """Compares two loads of one checkpoint on the built-in inputs.

    Args:
        reference: in fp32, on the CPU.
        model: on any device, in any precision.
    """
    pixels, tokens = example_inputs(reference)
    expected = [_plainly(reference.clip.encode_image, pixels)]
    expected += [_plainly(reference.clip.encode_text, tokens)]
    found = [encode_pixels(model.clip, pixels), encode_tokens(model.clip, tokens)]
    image, text = (_worst_cosine(e, f) for e, f in zip(expected, found, strict=True))
    difference = expected[0] @ expected[1].T - found[0] @ found[1].T
    return Deviation(image, text, float(np.abs(difference).max()))


def example_inputs(model: ClipModel) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels [8, 3, size, size] uint8 and tokens [8, context_length] int64."""
    size = model.config.vision.image_size
    pictures = (_picture(round(w * size), round(h * size), n) for n, (w, h) in enumerate(_SHAPES))
    pixels = np.stack([model.preprocessing.to_pixels(picture) for picture in pictures])
    return pixels, model.tokenizer.tokenize(CAPTIONS, truncate=True)


def _picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours, a few hard edges and noise, drawn from a seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][..., None]
    waves = np.sin(x * rng.uniform(2, 20, 3) + y * rng.uniform(2, 20, 3) + rng.uniform(0, 6, 3))
    edges = np.where((x - rng.uniform()) ** 2 + (y - rng.uniform()) ** 2 < 0.05, 60, 0)
    noise = rng.normal(0, 12, (height, width, 3))
    values = 128 + 60 * waves + edges + noise
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@torch.inference_mode()
def _plainly(encode: Callable[..., torch.Tensor], batch: np.ndarray) -> np.ndarray:
    """Embeds one row after the other."""
    rows = [encode(torch.from_numpy(batch[n : n + 1]), normalize=True) for n in range(len(batch))]
    return torch.cat(rows).numpy()


def _worst_cosine(expected: np.ndarray, found: np.ndarray) -> float:
    # In float64: 1 - cosine of nearly equal vectors cancels in float32.
    e, f = expected.astype(np.float64), found.astype(np.float64)
    cosine = (e * f).sum(1) / np.linalg.norm(e, axis=1) / np.linalg.norm(f, axis=1)
    return float(np.max(1 - cosine))
