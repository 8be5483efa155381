"""Pairs a second of the pipeline, its parts and its peers, in one run: `make bench`.

Rounds are interleaved, so that what else the machine does falls on all alike; each figure is the
median of the rounds. Weights are random: speed does not depend on them. All is on the processor;
`bench.gpu` is for GPUs. Peers that are not installed are named as such.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.pairs import make_pairs, random_model, write_tars
from bench.peers import PEERS, PeerMissing, Work, onnx_images, padded_text
from bench.quiet import embed_tars
from bench.writing import writing_rate
from clip_core.inference.encoding import encode_pixels, encode_tokens
from clip_core.loading import load
from clip_core.preprocess import RESAMPLINGS, Preprocess
from clip_core.variants import VARIANTS
from pipelines.encoding.models import ModelSpec, load_models
from pipelines.engine.cores import usable_cores
from pipelines.runs.summary import time_lines

Pairs = list[tuple[bytes, str]]
BATCH = 64


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table, and writes the figures as JSON."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--variant", default="ViT-B/32", choices=sorted(VARIANTS))
    flags.add_argument("--pairs", type=int, default=512, help="in a round")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--json", type=Path, default=Path("bench.json"))
    options = flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder) / "model", options.variant)
        rates = measure(model, make_pairs(options.pairs), options.rounds, Path(folder))
        dim = VARIANTS[options.variant].embed_dim
        rates["write, on one core"] = writing_rate(Path(folder), dim, options.rounds)
        seconds = json.loads((Path(folder) / "out" / "run.json").read_text())["seconds"]
    found = {"rates": rates, "pipeline_seconds": seconds}
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _print_table(rates)
    print()
    for line in time_lines(seconds, options.pairs):
        print(line)


def measure(model: Path, pairs: Pairs, rounds: int, folder: Path) -> dict[str, float]:
    """Returns items a second by part, the median of interleaved rounds."""
    parts = _parts(model, pairs, folder)
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, run in parts.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
            print(f"{name}: {len(pairs) / seconds[name][-1]:.2f}/s", file=sys.stderr, flush=True)
    return {name: len(pairs) / statistics.median(values) for name, values in seconds.items()}


def _parts(model: Path, pairs: Pairs, folder: Path) -> dict[str, Callable[[], object]]:
    plain = load(str(model))
    (ready,) = load_models((ModelSpec(str(model)),)).models
    images = [image for image, _ in pairs]
    pixels = np.stack([ready.preprocessing.to_pixels(_open(image)) for image in images])
    normalized = plain.preprocessing.normalize(pixels)
    tokens = ready.tokenizer.tokenize([text for _, text in pairs], truncate=True)
    size = ready.preprocessing.size
    parts: dict[str, Callable[[], object]] = {
        f"decode {r}": lambda r=r: _decode(images, Preprocess(size, resampling=r))
        for r in RESAMPLINGS
    }
    parts |= {
        "images, plain": lambda: _in_batches(plain.encode_image, torch.from_numpy(normalized)),
        "images": lambda: [encode_pixels(ready.clip, p) for p in _batches(pixels)],
        "texts, padded to 77": lambda: _in_batches(padded_text(plain), torch.from_numpy(tokens)),
        "texts": lambda: [encode_tokens(ready.clip, t) for t in _batches(tokens)],
    }
    (folder / "tars").mkdir()
    write_tars(pairs, folder / "tars", rows=BATCH)
    flags = ["--model", str(model), "--device", "cpu"]
    parts["pipeline"] = lambda: embed_tars(folder, flags)
    work = Work(model, pairs, folder / "tars", BATCH)
    peers = {name: partial(prepare, work) for name, prepare in PEERS.items()}
    peers["images, ONNX Runtime"] = partial(onnx_images, work, normalized)
    for name, prepare in peers.items():
        try:
            parts[name] = prepare()
        except PeerMissing as missing:
            print(f"{name}: {missing}", file=sys.stderr)
    return parts


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _decode(images: list[bytes], preprocess: Preprocess) -> None:
    """Decodes on all cores, as the pipeline may."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(lambda image: preprocess.to_pixels(_open(image)), images))


def _batches(array: np.ndarray) -> list[np.ndarray]:
    return [array[first : first + BATCH] for first in range(0, len(array), BATCH)]


def _in_batches(encode: Callable, batch: torch.Tensor) -> None:
    with torch.inference_mode():
        for piece in batch.split(BATCH):
            encode(piece)


def _print_table(rates: dict[str, float]) -> None:
    for name, rate in rates.items():
        print(f"{name:<32} {rate:9.2f} /s")
    print()
    # Each part has had all cores to itself: in perfect overlap their times add up.
    limit = 1 / sum(1 / rates[name] for name in ("decode exact", "images", "texts"))
    print(f"{'limit of its parts':<32} {limit:9.2f} pairs/s")
    ratios = {
        "pipeline / limit": rates["pipeline"] / limit,
        "images / plain": rates["images"] / rates["images, plain"],
        "texts / padded to 77": rates["texts"] / rates["texts, padded to 77"],
    }
    if "images, ONNX Runtime" in rates:
        ratios["images / ONNX Runtime"] = rates["images"] / rates["images, ONNX Runtime"]
    ratios |= {f"pipeline / {n}": rates["pipeline"] / rates[n] for n in PEERS if n in rates}
    for name, ratio in ratios.items():
        print(f"{name:<32} {ratio:9.2f}")


if __name__ == "__main__":
    main()
