"""Small things that many tests make: models, images, rows, plans."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip_core.checkpoints.saving import save_model_directory
from clip_core.model import Clip
from clip_core.tokenizer import Tokenizer
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS
from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.records import Row

ROOT = Path(__file__).parents[2]


_ONE_LAYER = {"layers": 1, "width": 64, "heads": 1}
_SHALLOW = {"tiny-rn": {"width": 8, "heads": 4}, "tiny-vit": _ONE_LAYER}


def saved_clip(directory: Path, variant: str, tokenizer: Tokenizer, **drawn: Any) -> Path:
    """Saves a model as `random_clip` draws it; returns its directory."""
    save_model_directory(directory, random_clip(variant, tokenizer, **drawn), tokenizer)
    return directory


def random_clip(variant: str, tokenizer: Tokenizer, seed: int = 0, shallow: bool = False) -> Clip:
    """Draws a model.

    Args:
        shallow: whether its towers are as thin as they can be, for tests of what is around it.
    """
    config = VARIANTS[variant]
    if shallow:
        vision = replace(config.vision, **_SHALLOW[variant])
        config = replace(config, vision=vision, text=replace(config.text, **_ONE_LAYER))
    text = replace(config.text, vocab_size=tokenizer.vocab_size)
    return new_model(replace(config, text=text), seed).eval()


def flags_over(defaults: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Returns flags, behind the defaults (each with its value) that they do not give."""
    pairs = zip(defaults[::2], defaults[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in flags for word in pair] + list(flags)


def make_image(width: int = 80, height: int = 70, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, so that resampling matters."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    base = np.stack([x, y, 1 - x], axis=-1) * 200 + rng.integers(0, 50, (height, width, 3))
    return Image.fromarray(base.astype(np.uint8)).convert(mode)


def encode_image(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def make_row(number: int = 0, **changes: object) -> Row:
    row = Row(
        uid=f"row-{number}",
        source="/data/manifest.jsonl",
        source_row=number,
        url=f"{number}.png",
        text=f"a red circle number {number}",
        image_root="/data",
    )
    return row._replace(**changes)


def plan(pattern: object, **settings: object):
    return plan_units(ManifestRequest(patterns=(str(pattern),), **settings))
