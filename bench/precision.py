"""Drift of bf16 and fp16 against fp32 on every family: `python -m bench.precision`.

The bundled model is trained; the others have the published sizes and random weights, as no weights
come with this project. `clip-beam verify --model X --precision bf16` measures a model of yours.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

import clip_core
from clip_core.checkpoints.vocabulary import find_openai_merges
from clip_core.inference.verification import measure
from clip_core.loading import PRECISIONS, ClipModel, cast_precision
from clip_core.model import Clip
from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS

RANDOM = ("RN50", "ViT-B/32", "ViT-L/14")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    flags.parse_args(argv)
    print("| model | precision | image 1 - cos | text 1 - cos | similarity |")
    print("| --- | --- | --- | --- | --- |")
    for name, reference in models():
        for precision in ("bf16", "fp16"):
            clip = cast_precision(copy.deepcopy(reference.clip), PRECISIONS[precision])
            found = measure(reference, replace(reference, clip=clip))
            drift = f"{found.image:.1e} | {found.text:.1e} | {found.similarity:.1e}"
            print(f"| {name} | {precision} | {drift} |", flush=True)


def models() -> Iterator[tuple[str, ClipModel]]:
    """Yields the bundled model, and one of each family with random weights, in fp32."""
    yield "tiny (trained)", clip_core.load("tiny")
    tokenizer = Tokenizer(find_openai_merges())
    for name in RANDOM:
        config = VARIANTS[name]
        clip = _shaken(new_model(config, 0)).eval().requires_grad_(False)
        preprocess = Preprocess(config.vision.image_size, config.mean, config.std)
        yield f"{name} (random)", ClipModel(clip, preprocess, tokenizer, {})


@torch.no_grad()
def _shaken(clip: Clip) -> Clip:
    """Gives BatchNorm a gain, as training would: at the start each block is the identity."""
    for module in clip.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(0.5)
    return clip


if __name__ == "__main__":
    main()
