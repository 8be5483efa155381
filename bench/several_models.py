"""What a pass with two models costs beside a pass for each: `python -m bench.several_models`.

Bound by decoding: images as the web has them, and small models. Those of one resolution, as a
ViT-B/32 and a ViT-L/14, share the resized image; others share no more than the decoded one.
Rounds are interleaved; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.pairs import make_pairs, write_tars
from bench.quiet import embed_tars
from clip_core.checkpoints.saving import save_model_directory
from clip_core.loading import load
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS

PAIRS, ROUNDS = 1024, 3
SIZES = (64, 96)  # of the models beside the bundled one, which has 64


def main(argv: Sequence[str] | None = None) -> None:
    """Prints seconds, and ratios."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tars").mkdir()
        write_tars(make_pairs(PAIRS), folder / "tars", rows=256)
        seconds = measure(folder, {size: _model(folder / str(size), size) for size in SIZES})
    for which, found in seconds.items():
        print(f"{which:<16} {found:.2f} s")
    for size in SIZES:
        alone = seconds["tiny"] + seconds[f"{size}"]
        print(f"ratio, 64 + {size}   {seconds[f'tiny and {size}'] / alone:.2f}")


def measure(folder: Path, others: Mapping[int, str]) -> dict[str, float]:
    """Returns seconds of each pass, the median of interleaved rounds."""
    passes = {"tiny": ["tiny"]}
    for size, model in others.items():
        passes |= {f"{size}": [model], f"tiny and {size}": ["a=tiny", f"b={model}"]}
    seconds: dict[str, list[float]] = {which: [] for which in passes}
    for _ in range(ROUNDS):
        for which, models in passes.items():
            seconds[which].append(_run(folder, models))
            print(f"{which}: {seconds[which][-1]:.2f} s", file=sys.stderr, flush=True)
    return {which: statistics.median(found) for which, found in seconds.items()}


def _model(directory: Path, size: int) -> str:
    tiny = load("tiny")
    config = replace(tiny.config, vision=replace(VARIANTS["tiny-vit"].vision, image_size=size))
    save_model_directory(directory, new_model(config, 0).eval(), tiny.tokenizer)
    return str(directory)


def _run(folder: Path, models: list[str]) -> float:
    """Embeds all pairs; returns seconds without those of loading."""
    embed_tars(folder, [part for model in models for part in ("--model", model)])
    seconds = json.loads((folder / "out" / "run.json").read_text())["seconds"]
    return seconds["wall"] - seconds["start"]


if __name__ == "__main__":
    main()
