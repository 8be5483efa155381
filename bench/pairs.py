"""What is measured with: image-text pairs as web datasets have them, models of random weights."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from clip_core.checkpoints.saving import save_model_directory
from clip_core.checkpoints.vocabulary import find_openai_merges
from clip_core.tokenizer import Tokenizer
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS

_WORDS = (
    "photo of a the in on with and red blue old new small large house car dog cat street tree "
    "vintage wedding dress leather black white set for sale home design kitchen garden art print "
    "canvas winter summer beach mountain city night light woman man child portrait logo vector"
)


def jpeg(rng: np.random.Generator) -> bytes:
    """Draws a JPEG of about 0.38 megapixels and 1.6 bits a pixel, as web images have."""
    width, height = (int(v) for v in rng.integers(480, 820, 2))
    picture = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 60), (16, 30), (64, 14), (160, 8)):
        coarse = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        layer = [
            Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        picture += np.stack([np.asarray(channel) for channel in layer], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray((128 + picture).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def caption(rng: np.random.Generator) -> str:
    """Draws a caption: eleven words in the median, one in thirty longer than the context."""
    words = int(np.clip(rng.lognormal(2.4, 0.62), 2, 120))
    return " ".join(rng.choice(_WORDS.split(), words))


def make_pairs(count: int, seed: int = 0) -> list[tuple[bytes, str]]:
    """Draws `count` pairs of an encoded image and a caption."""
    rng = np.random.default_rng(seed)
    return [(jpeg(rng), caption(rng)) for _ in range(count)]


def write_tars(pairs: list[tuple[bytes, str]], folder: Path, rows: int = 500) -> None:
    """Writes WebDataset tars of at most `rows` pairs."""
    for first in range(0, len(pairs), rows):
        with tarfile.open(folder / f"{first // rows:05d}.tar", "w") as tar:
            for number, (image, text) in enumerate(pairs[first : first + rows], first):
                for suffix, data in (("jpg", image), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def random_model(directory: Path, variant: str) -> Path:
    """Writes a model directory of a published architecture; speed does not depend on weights."""
    clip = new_model(VARIANTS[variant], 0).eval()
    save_model_directory(directory, clip, Tokenizer(find_openai_merges()))
    return directory
