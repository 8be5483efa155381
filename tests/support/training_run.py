"""A short training run, alone or shared by the processes that torchrun starts."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from clip_core.tokenizer import Tokenizer
from clip_core.training.bpe import learn_merges
from clip_core.training.recipe import PretrainConfig
from clip_core.training.trainer import Pairs, Trainer
from making import random_clip


def losses(variant: str, checkpoint: Path) -> list[float]:
    """Trains for an epoch, and returns the loss of each of its steps."""
    tokenizer = Tokenizer(learn_merges(["a red circle"], 600), 32)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 3, 64, 64), dtype=np.uint8)
    pairs = Pairs(pixels, tokenizer.tokenize([f"a red circle {n}" for n in range(32)]))
    config = PretrainConfig(epochs=1, batch_size=8, warmup_steps=2, learning_rate=1e-4)
    trainer = Trainer(random_clip(variant, tokenizer, shallow=True), pairs, config, checkpoint)
    found: list[float] = []
    trainer.run(lambda report: found.append(report.loss))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, *variants = sys.argv[1:]
    for variant in variants:
        found = losses(variant, Path(folder, f"{variant}.pt"))
        if dist.get_rank() == 0:
            print("losses", variant, *found, flush=True)
