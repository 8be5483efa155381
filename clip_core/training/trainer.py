"""Contrastive pretraining of a CLIP: steps, and checkpoints that resume exactly.

What a step sees depends on the seed and its number alone, so a resumed run repeats the same steps.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clip_core.model import Clip
from clip_core.training.contrastive import (
    Towers,
    clamp_temperature,
    contrastive_loss,
)
from clip_core.training.recipe import (
    PretrainConfig,
    PretrainError,
    learning_rate_at,
    parameter_groups,
)

# They change how a step is computed, not what it computes: a run may resume with others.
_FREE_TO_CHANGE = ("checkpoint_every", "micro_batch_size", "activation_checkpointing")


@dataclass(frozen=True)
class Pairs:
    """Decoded training data, row i of one belonging to row i of the other.

    Attributes:
        pixels: [rows, 3, size, size] uint8, possibly memory-mapped.
        tokens: [rows, context_length] int64.
    """

    pixels: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did. `rows` counts image-text pairs over all processes."""

    step: int
    steps: int
    rows: int
    loss: float
    accuracy: float
    learning_rate: float
    logit_scale: float


class Trainer:
    """One run over `pairs`, in this process or as one of several started by `torchrun`.

    Args:
        clip: freshly initialised model, on its device.
        checkpoint: file that the run is resumed from and saved to.

    Raises:
        PretrainError: if there are fewer rows than one batch, if the batch does not divide by the
            number of processes, or if the checkpoint belongs to another run.
    """

    def __init__(self, clip: Clip, pairs: Pairs, config: PretrainConfig, checkpoint: Path) -> None:
        self.clip = clip.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pairs = pairs
        self.config = config
        self.checkpoint = checkpoint
        self.device = clip.logit_scale.device
        self.rank, self.processes = _place()
        self.steps_per_epoch = len(pairs) // config.batch_size
        self.steps = self.steps_per_epoch * config.epochs
        self._check_batches()
        self.towers: nn.Module = Towers(clip, config.micro_batch_size)
        if config.activation_checkpointing:
            for tower in (clip.transformer, getattr(clip.visual, "transformer", clip.visual)):
                tower.recompute = True
        if self.processes > 1:
            self.towers = DistributedDataParallel(self.towers)
        groups = parameter_groups(clip, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
        self.step = 0
        self._shuffled = (-1, np.empty(0, np.int64))  # the epoch at hand and its order

    def _check_batches(self) -> None:
        batch = self.config.batch_size
        if not self.steps:
            raise PretrainError(
                f"expected at least one batch of {batch} rows, got {len(self.pairs)} rows; "
                "lower `batch_size` or bring more data"
            )
        if batch % self.processes:
            raise PretrainError(
                f"`batch_size` {batch} must divide evenly over {self.processes} processes"
            )

    def run(self, report: Callable[[StepReport], None]) -> None:
        """Trains from where the checkpoint stands to the end, reporting each step."""
        self.resume()
        self.clip.train()
        while self.step < self.steps:
            report(self._train_step())
            if self.step % self.config.checkpoint_every == 0 or self.step == self.steps:
                self.save()

    def _train_step(self) -> StepReport:
        pixels, tokens = self._batch(self.step)
        rate = learning_rate_at(self.step, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            image, text, scale = self.towers(pixels, tokens)
        outcome = contrastive_loss(image, text, scale)
        self.optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        nn.utils.clip_grad_norm_(self.clip.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        clamp_temperature(self.clip)
        self.step += 1
        loss, accuracy = self._average(torch.stack([outcome.loss.detach(), outcome.accuracy]))
        return StepReport(
            self.step,
            self.steps,
            self.config.batch_size,
            loss,
            accuracy,
            rate,
            self.clip.logit_scale.exp().item(),
        )

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns this process's share of the batch: a function of seed and step alone."""
        epoch, index = divmod(step, self.steps_per_epoch)
        batch = self._order(epoch)[index * self.config.batch_size :][: self.config.batch_size]
        flips = np.random.default_rng([self.config.seed, epoch, index]).random(len(batch)) < 0.5
        share = slice(self.rank, None, self.processes)
        pixels = torch.from_numpy(self.pairs.pixels[batch[share]])
        if self.config.horizontal_flip:
            flip = torch.from_numpy(flips[share])[:, None, None, None]
            pixels = torch.where(flip, pixels.flip(-1), pixels)
        tokens = torch.from_numpy(self.pairs.tokens[batch[share]])
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return pixels.to(self.device), tokens.to(self.device)

    def _order(self, epoch: int) -> np.ndarray:
        if self._shuffled[0] != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._shuffled = (epoch, rng.permutation(len(self.pairs)))
        return self._shuffled[1]

    def _average(self, values: Tensor) -> list[float]:
        if self.processes > 1:
            dist.all_reduce(values)
            values = values / self.processes
        return values.tolist()

    def save(self) -> None:
        """Writes the checkpoint in one piece; only the first process does."""
        if self.rank:
            return
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "step": self.step,
                "config": asdict(self.config),
                "rows": len(self.pairs),
                "model": self.clip.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            partial,
        )
        os.replace(partial, self.checkpoint)

    def resume(self) -> None:
        """Continues from the checkpoint when there is one.

        Raises:
            PretrainError: if it is damaged, or of another run.
        """
        if not self.checkpoint.exists():
            return
        state = self._read_checkpoint()
        expected = asdict(self.config) | {"rows": len(self.pairs)}
        found = state["config"] | {"rows": state["rows"]}
        differing = sorted(
            name
            for name in expected
            if expected[name] != found.get(name) and name not in _FREE_TO_CHANGE
        )
        if differing:
            raise PretrainError(
                f"{self.checkpoint.name} belongs to a run with another "
                + ", ".join(f"{name} ({found.get(name)!r})" for name in differing)
                + "; use the same options or another output"
            )
        self.clip.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _read_checkpoint(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = torch.load(
                self.checkpoint, map_location=self.device, weights_only=True
            )
            return found
        except (EOFError, RuntimeError, pickle.UnpicklingError) as error:  # what torch raises of it
            raise PretrainError(
                f"{self.checkpoint} is damaged; remove it, or restore it, and run again"
            ) from error


def _place() -> tuple[int, int]:
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
