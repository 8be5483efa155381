"""Tensors of a checkpoint that are read one at a time, when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LazyTensor:
    """Shape of a stored tensor, and how to read it.

    Holding shapes only lets a model be checked before its weights are read, and keeps the peak
    memory of loading at the model plus one tensor.
    """

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


LazyTensors = Mapping[str, LazyTensor]


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded as what it claims to be: says why and what to do."""
