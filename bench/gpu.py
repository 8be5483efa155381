"""What a GPU does in a second, and how much of the time it works: `python -m bench.gpu`.

Three things are measured for each architecture, with random weights and the precision that the
pipeline takes by itself: the encoders on arrays in memory; the pipeline on images that need no
decoding to speak of (bitmaps of the model's size), where the GPU should be busy throughout; and the
pipeline on JPEGs, where decoding sets the pace. The GPU is busy while at least one kernel runs.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench.pairs import caption, jpeg, random_model, write_tars
from bench.quiet import embed_tars
from clip_core.inference.encoding import encode_pixels, encode_tokens
from clip_core.inference.verification import measure as measure_drift
from clip_core.loading import load
from clip_core.variants import VARIANTS
from pipelines.encoding.models import BATCH_SIZE, ModelSpec, load_models, resolve_precision
from pipelines.engine.cores import usable_cores

PICTURES = 256  # drawn; a run shows them again and again
ROWS_PER_TAR = 1024
ROUNDS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table, and writes the figures as JSON."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--variants", nargs="+", default=["ViT-B/32", "ViT-L/14"], choices=VARIANTS)
    flags.add_argument("--pairs", type=int, default=8192, help="in a run of the pipeline")
    flags.add_argument("--device", default="cuda", help="cpu only tells whether this runs")
    flags.add_argument("--json", type=Path, default=Path("gpu.json"))
    options = flags.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench.gpu: this machine has no GPU that torch can use; nothing was measured")
        return
    on_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "no GPU"
    print(f"{name}, {usable_cores()} cores, torch {torch.__version__}")
    found = {}
    for variant in options.variants:
        found[variant] = measure(variant, options.device, options.pairs)
        print(f"\n{variant}")
        for label, value in found[variant].items():
            print(f"  {label:<44} {value:12.6g}")
    options.json.write_text(json.dumps({"machine": name, "found": found}, indent=2) + "\n")


def measure(variant: str, device: str, pairs: int) -> dict[str, float]:
    """Returns the figures of one architecture, by what they say."""
    precision = resolve_precision("auto", device)
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder) / "model", variant)
        spec = ModelSpec(str(model), device, precision)
        size = load_models((spec,)).models[0].preprocessing.size
        figures = _encoders(spec, min(pairs, BATCH_SIZE["cuda"]))
        rng = np.random.default_rng(0)
        pictures = [jpeg(rng) for _ in range(min(PICTURES, pairs))]
        captions = [caption(rng) for _ in range(pairs)]
        place = ["--device", device, "--precision", precision, "--model", str(model)]
        for kind, images in {"bitmaps": _bitmaps(pictures, size), "JPEGs": pictures}.items():
            tars = Path(folder) / kind / "tars"
            tars.mkdir(parents=True)
            rows = [(images[n % len(images)], text) for n, text in enumerate(captions)]
            write_tars(rows, tars, ROWS_PER_TAR)
            for decode in ("exact", "fast") if kind == "JPEGs" else ("exact",):
                run = _pipeline(tars.parent, [*place, "--decode", decode], pairs)
                figures |= {f"pipeline, {kind}, {decode}: {what}": v for what, v in run.items()}
    return figures


def _encoders(spec: ModelSpec, batch: int) -> dict[str, float]:
    """Rates, utilisation and drift of a model's encoders on one batch in memory."""
    (ready,) = load_models((spec,)).models
    plain = load(spec.uri, device=spec.device, precision=spec.precision)
    reference = load(spec.uri)
    rng, size = np.random.default_rng(0), ready.preprocessing.size
    pixels = rng.integers(0, 256, (batch, 3, size, size), dtype=np.uint8)
    tokens = ready.tokenizer.tokenize([caption(rng) for _ in range(batch)], truncate=True)
    peak = _matmul_flops(spec.device, plain.clip.dtype)
    figures = {"a large matrix product, TFLOP/s": peak / 1e12}
    for name, encode, given in (
        ("images", encode_pixels, pixels),
        ("captions", encode_tokens, tokens),
    ):
        with FlopCounterMode(display=False) as counted:
            encode(plain.clip, given)
        rate = batch / _seconds(lambda e=encode, g=given: e(ready.clip, g))
        figures[f"{name} a second"] = rate
        utilisation = counted.get_total_flops() / batch * rate / peak
        figures[f"{name}: FLOPs done over those of the product"] = utilisation
    drift = measure_drift(reference, replace(reference, clip=ready.clip))
    return figures | {
        f"{spec.precision}, image 1 - cos": drift.image,
        f"{spec.precision}, text 1 - cos": drift.text,
        f"{spec.precision}, similarity": drift.similarity,
    }


def _matmul_flops(device: str, dtype: torch.dtype) -> float:
    """FLOPs a second of a large matrix product: what this very device can reach."""
    side = 8192 if device == "cuda" else 512
    a = torch.randn(side, side, device=device).to(dtype)

    def multiply() -> float:
        return float((a @ a)[0, 0])  # waits for it

    return 2 * side**3 / _seconds(multiply)


def _seconds(run: Callable[[], object]) -> float:
    """The least of several runs, after those in which a GPU's graph is captured."""
    taken = []
    for _ in range(ROUNDS + 3):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken[3:])


def _bitmaps(pictures: Sequence[bytes], size: int) -> list[bytes]:
    """Images of the model's size, of which decoding is hardly more than copying."""
    return [_bitmap(Image.open(io.BytesIO(picture)).resize((size, size))) for picture in pictures]


def _bitmap(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def _pipeline(folder: Path, flags: Sequence[str], pairs: int) -> dict[str, float]:
    """Runs it twice, as the first run captures graphs; returns what is told of the second."""
    embed_tars(folder, flags)
    activities = [ProfilerActivity.CUDA] if torch.cuda.is_available() else None
    with profile(activities=activities, acc_events=True) as profiler:
        embed_tars(folder, flags)
    seconds = json.loads((folder / "out" / "run.json").read_text())["seconds"]
    figures = {"pairs a second": pairs / (seconds["wall"] - seconds["start"])}
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    if spans:
        figures["GPU busy, of its first to last kernel"] = busy_share(spans)
    figures["cores busy with decoding"] = seconds["decode"] / seconds["wall"] / usable_cores()
    return figures


def busy_share(spans: Iterable[tuple[float, float]]) -> float:
    """Returns the share of time, from the first start to the last end, that spans cover."""
    ordered = sorted(spans)
    covered, until = 0.0, ordered[0][0]
    for start, end in ordered:
        covered += max(end - max(start, until), 0.0)
        until = max(until, end)
    return covered / (until - ordered[0][0])


if __name__ == "__main__":
    main()
