"""Speed and drift of each `--decode`: `python -m bench.decoding`.

Two sets of JPEGs: `web`, as the web has them, and `edges`, stripes and checks in black and white,
of 1 to 16 pixels, on which a decoder that halves loses most. Drift is that of the pixels, and of
the image embeddings of a ViT-B/32 with random weights; beside it, how far those of different images
lie apart.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image

from bench.pairs import make_pairs
from clip_core.inference.encoding import encode_pixels
from clip_core.inference.ready import ready_to_encode
from clip_core.model import Clip
from clip_core.preprocess import RESAMPLINGS, Preprocess
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS

PICTURES, ROUNDS = 128, 5
VARIANT = "ViT-B/32"
JPEG_ALONE = "JPEG alone"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    flags.parse_args(argv)
    torch.set_num_threads(1)
    clip = ready_to_encode(new_model(VARIANTS[VARIANT], 0).eval())
    sets = {"web": [image for image, _ in make_pairs(PICTURES, seed=1)], "edges": edges(PICTURES)}
    for set_name, pictures in sets.items():
        print(f"\nset {set_name}, {PICTURES} images\n")
        _print_table(clip, pictures)


def edges(count: int) -> list[bytes]:
    """Draws JPEGs of stripes and checks, 480 to 820 pixels wide and high."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(count):
        width, height = (int(v) for v in rng.integers(480, 820, 2))
        across, down = rng.integers(1, 17, 2)
        x, y = np.arange(width) // across, np.arange(height)[:, None] // down
        lines = np.broadcast_to(x, (height, width)) if rng.random() < 0.5 else x + y
        buffer = io.BytesIO()
        Image.fromarray((lines % 2 * 255).astype(np.uint8)).convert("RGB").save(
            buffer, "JPEG", quality=95
        )
        found.append(buffer.getvalue())
    return found


def _print_table(clip: Clip, pictures: Sequence[bytes]) -> None:
    rates = measure_rates(pictures)
    pixels = {name: np.stack(_decode(pictures, name)) for name in RESAMPLINGS}
    vectors = {name: encode_pixels(clip, found) for name, found in pixels.items()}
    exact, embedded = pixels["exact"].astype(int), vectors["exact"]
    print("| --decode | images/s, one core | grey levels | PSNR, least | 1 - cos, most |")
    print("| --- | --- | --- | --- | --- |")
    for name in RESAMPLINGS:
        off = np.abs(pixels[name] - exact)
        drift = np.square(vectors[name] - embedded).sum(axis=1).max() / 2  # 1 - cos, of unit norms
        row = f"{rates[name]:.0f} | {off.max()} | {_least_psnr(off)} | {drift:.1e}"
        print(f"| `{name}` | {row} |")
    print(f"| JPEG alone | {rates[JPEG_ALONE]:.0f} | | | |")
    apart = 1 - (embedded @ embedded.T)[~np.eye(PICTURES, dtype=bool)]
    print(f"\n1 - cos of different images: {np.median(apart):.1e} in the median")


def measure_rates(pictures: Sequence[bytes]) -> dict[str, float]:
    """Returns images a second of one core, the median of interleaved rounds."""
    ways: dict[str, Callable[[], object]] = {
        name: partial(_decode, pictures, name) for name in RESAMPLINGS
    }
    ways[JPEG_ALONE] = partial(_open_all, pictures)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, found in seconds.items():
            began = time.process_time()
            ways[name]()
            found.append(time.process_time() - began)
    return {name: len(pictures) / statistics.median(found) for name, found in seconds.items()}


def _decode(pictures: Sequence[bytes], resampling: str) -> list[np.ndarray]:
    preprocess = Preprocess(VARIANTS[VARIANT].vision.image_size, resampling=resampling)
    return [preprocess.to_pixels(Image.open(io.BytesIO(data))) for data in pictures]


def _open_all(pictures: Sequence[bytes]) -> None:
    """Decodes and resizes nothing: what is left to do where a device would resize."""
    for data in pictures:
        Image.open(io.BytesIO(data)).load()


def _least_psnr(off: np.ndarray) -> str:
    worst = np.square(off).mean(axis=(1, 2, 3)).max()
    return f"{10 * np.log10(255**2 / worst):.0f} dB" if worst else "equal"


if __name__ == "__main__":
    main()
