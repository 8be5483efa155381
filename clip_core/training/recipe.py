"""The recipe of contrastive pretraining (Radford et al. 2021, section 2.5 and table 18).

Adam with decoupled weight decay on all weights that are not gains or biases, linear warm-up, cosine
decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class PretrainError(ValueError):
    """A pretraining that cannot start or resume: says what was expected and what to do."""


@dataclass(frozen=True)
class PretrainConfig:
    """Hyperparameters of a run. `batch_size` is the global batch, over all processes.

    Attributes:
        start: what the weights were before: `random` and an architecture, or the SHA-256 of a
            checkpoint.
        micro_batch_size, activation_checkpointing: less memory for more time, and the same
            gradients; see `Towers` and `recomputed`.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.2
    warmup_steps: int = 150
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    horizontal_flip: bool = False
    checkpoint_every: int = 500
    seed: int = 0
    start: str = "random"
    micro_batch_size: int | None = None
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_every", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PretrainError(f"`{name}` must be at least 1, got {value}")
        if self.precision not in PRECISIONS:
            raise PretrainError(f"`precision` must be fp32 or bf16, got {self.precision!r}")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits parameters into those that decay and the gains, biases and temperature that do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def learning_rate_at(step: int, steps: int, config: PretrainConfig) -> float:
    """Returns the rate of a step: linear warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
