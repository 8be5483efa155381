"""Measures a model on freshly drawn scenes: `python -m bench.quality --model tiny --seed 11`.

Swap AUROC: half of the captions are false; how often a true pair scores above a false one.
Zero-shot: one object an image, named by the nearest prompt.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from PIL import Image

import clip_core
from clip_core.inference.encoding import encode_pixels, encode_tokens
from clip_core.loading import ClipModel
from clip_core.zero_shot import zero_shot_weights
from pipelines.samples.ranking import auroc
from pipelines.samples.rows import SampleConfig, SampleRow, make_row
from pipelines.samples.scenes import COLOURS, SHAPES, Scene, random_scene, scene_rng

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
        ("AUROC, caption of another image", SampleConfig(rows, seed, swap_rate=0.5)),
        ("AUROC, one colour word changed", _word_swaps(rows, seed + 1, "colour")),
        ("AUROC, one shape word changed", _word_swaps(rows, seed + 2, "shape")),
    ]
    found = [(name, swap_auroc(model, config)) for name, config in swaps]
    seen = SampleConfig(rows, seed + 3, colour_shape_pairs="seen", one_object=True)
    unseen = SampleConfig(rows // 2, seed + 4, colour_shape_pairs="unseen", one_object=True)
    colour, shape, both = zero_shot(model, seen)
    weak = SampleConfig(rows, seed + 5)
    return [
        *found,
        ("zero-shot colour (8)", colour),
        ("zero-shot shape (8)", shape),
        ("zero-shot colour and shape (64)", both),
        ("the same, pairs never seen in training", zero_shot(model, unseen)[2]),
        *limits(model, weak),
    ]


def limits(model: ClipModel, config: SampleConfig) -> list[tuple[str, float]]:
    """Returns what the model is not good at, as shares of right choices between two captions."""
    numbers = range(config.rows)
    scenes = {n: random_scene(scene_rng(config.seed, n)) for n in numbers}  # as make_row draws them
    single = [n for n in numbers if len(scenes[n].objects) == 1]
    group = [n for n in numbers if len(scenes[n].objects) > 1]
    pairs = [
        n
        for n in group
        if len({o.colour for o in scenes[n].objects}) == len(scenes[n].objects) == 2
        and len({o.shape for o in scenes[n].objects}) == 2
    ]
    words = {2: ("two shapes", "three shapes"), 3: ("three shapes", "two shapes")}
    return [
        (
            "two or three objects",
            _choices(model, config, group, lambda n: words[len(scenes[n].objects)]),
        ),
        (
            "which colour belongs to which shape",
            _choices(model, config, pairs, lambda n: _bound(scenes[n])),
        ),
        ("left or right", _choices(model, config, single, lambda n: _placed(scenes[n]))),
    ]


def _choices(
    model: ClipModel,
    config: SampleConfig,
    numbers: Sequence[int],
    captions: Callable[[int], tuple[str, str]],
) -> float:
    """Returns how often the first of an image's two captions scores above the second."""
    images = embed_images(model, [make_row(config, number) for number in numbers])
    true, false = (
        embed_texts(model, [captions(number)[which] for number in numbers]) for which in (0, 1)
    )
    return float(((images * true).sum(axis=1) > (images * false).sum(axis=1)).mean())


def _bound(scene: Scene) -> tuple[str, str]:
    first, second = scene.objects
    return (
        f"a {first.colour} {first.shape} and a {second.colour} {second.shape}",
        f"a {second.colour} {first.shape} and a {first.colour} {second.shape}",
    )


def _placed(scene: Scene) -> tuple[str, str]:
    item = scene.objects[0]
    sides = ("left", "right") if item.x < 0.5 else ("right", "left")
    true, false = (f"a {item.colour} {item.shape} on the {side}" for side in sides)
    return true, false


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
    classes = zero_shot_weights(model, names, TEMPLATES)
    nearest = (images @ classes.T).argmax(axis=1)
    return float(np.mean([labels[i] == true for i, true in zip(nearest, truth, strict=True)]))


def embed_images(model: ClipModel, rows: Sequence[SampleRow]) -> np.ndarray:
    """Returns [rows, dim] embeddings of the rows' images."""
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
