"""Brings arrays to a model's device, without making a GPU wait for them.

Only memory that is pinned can be copied while the processor goes on; images travel on a stream of
their own, beside the kernels of the batch before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Moves a small tensor from the processor to a device; to a GPU the copy is only begun."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def upload_joined(blocks: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Joins blocks of arrays on a device; the copy of a GPU's is only begun.

    Args:
        blocks: at least one; each [arrays, ...] uint8. A single one is not copied for a processor.

    Returns:
        [all arrays, ...] uint8.
    """
    if device.type != "cuda":
        return torch.from_numpy(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
    shape = (sum(map(len, blocks)), *blocks[0].shape[1:])
    waiting = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    np.concatenate(blocks, out=waiting.numpy())
    copies, kernels = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        joined = waiting.to(device, non_blocking=True)
    kernels.wait_stream(copies)
    joined.record_stream(kernels)  # else its memory could be given away while they still read it
    return joined


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
