"""Measures a model on freshly drawn scenes: `python -m bench.quality --model tiny --seed 11`.

Swap AUROC: half of the captions are false; how often a true pair scores above a false one.
Zero-shot: one object a picture, named by the nearest prompt.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from itertools import product

import numpy as np
from PIL import Image

import clip_core
from clip_core.encoding import encode_pixels, encode_tokens
from clip_core.loading import ClipModel
from clip_core.ranking import auroc
from pipelines.sample_rows import SampleConfig, SampleRow, make_row
from pipelines.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES

TEMPLATES = ("a {}", "a photo of a {}", "this is a {}", "the picture shows a {}")
BATCH = 256


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one figure a line."""
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--model", default="tiny")
    flags.add_argument("--seed", type=int, default=11)
    flags.add_argument("--rows", type=int, default=2000)
    options = flags.parse_args(argv)
    model = clip_core.load(options.model)
    for name, value in measure(model, options.seed, options.rows):
        print(f"{name:<44}{value:.3f}", flush=True)


def measure(model: ClipModel, seed: int, rows: int) -> list[tuple[str, float]]:
    """Returns the figures of the model card, by name."""
    swaps = [
        ("AUROC, caption of another picture", SampleConfig(rows, seed, swap_rate=0.5)),
        ("AUROC, one colour word changed", _word_swaps(rows, seed + 1, "colour")),
        ("AUROC, one shape word changed", _word_swaps(rows, seed + 2, "shape")),
    ]
    found = [(name, swap_auroc(model, config)) for name, config in swaps]
    seen = SampleConfig(rows, seed + 3, colour_shape_pairs="seen", one_object=True)
    unseen = SampleConfig(rows // 2, seed + 4, colour_shape_pairs="unseen", one_object=True)
    colour, shape, both = zero_shot(model, seen)
    return [
        *found,
        ("zero-shot colour (8)", colour),
        ("zero-shot shape (8)", shape),
        ("zero-shot colour and shape (64)", both),
        ("the same, pairs never seen in training", zero_shot(model, unseen)[2]),
    ]


def swap_auroc(model: ClipModel, config: SampleConfig) -> float:
    """Returns how well the similarity tells true pairs from false ones."""
    rows = [make_row(config, number) for number in range(config.rows)]
    images = embed_images(model, rows)
    texts = embed_texts(model, [row.text for row in rows])
    similarity = (images * texts).sum(axis=1)
    is_true = np.array([row.truth.swap == "none" for row in rows])
    return auroc(similarity[is_true], similarity[~is_true])


def zero_shot(model: ClipModel, config: SampleConfig) -> tuple[float, float, float]:
    """Returns the accuracy of naming the colour, the shape, and both at once."""
    rows = [make_row(config, number) for number in range(config.rows)]
    images = embed_images(model, rows)
    pairs = list(product(COLOURS, SHAPES))
    assert {pair for pair in pairs if pair in HELD_OUT_PAIRS} == HELD_OUT_PAIRS
    return (
        _accuracy(model, images, [f"{c} shape" for c in COLOURS], list(COLOURS),
                  [row.truth.colour for row in rows]),
        _accuracy(model, images, list(SHAPES), list(SHAPES), [row.truth.shape for row in rows]),
        _accuracy(model, images, [f"{c} {s}" for c, s in pairs], pairs,
                  [(row.truth.colour, row.truth.shape) for row in rows]),
    )  # fmt: skip


def _accuracy(
    model: ClipModel, images: np.ndarray, names: list[str], labels: list, truth: list
) -> float:
    classes = np.stack([_class_embedding(model, name) for name in names])
    nearest = (images @ classes.T).argmax(axis=1)
    return float(np.mean([labels[index] == true for index, true in zip(nearest, truth)]))  # noqa: B905


def _class_embedding(model: ClipModel, name: str) -> np.ndarray:
    mean = embed_texts(model, [template.format(name) for template in TEMPLATES]).mean(axis=0)
    return mean / np.linalg.norm(mean)


def embed_images(model: ClipModel, rows: Sequence[SampleRow]) -> np.ndarray:
    """Returns [rows, dim] embeddings of the rows' pictures."""
    pixels = [
        model.preprocessing.to_pixels(Image.open(io.BytesIO(row.image or b""))) for row in rows
    ]
    parts = [pixels[first : first + BATCH] for first in range(0, len(pixels), BATCH)]
    return np.concatenate([encode_pixels(model.clip, np.stack(part)) for part in parts])


def embed_texts(model: ClipModel, texts: Sequence[str]) -> np.ndarray:
    """Returns [texts, dim] embeddings."""
    return encode_tokens(model.clip, model.tokenizer.tokenize(texts, truncate=True))


def _word_swaps(rows: int, seed: int, kind: str) -> SampleConfig:
    return SampleConfig(rows, seed, word_swap_rate=0.5, word_swap=kind)


if __name__ == "__main__":
    main()
