"""Trades time for memory in training: activations are computed again when gradients need them.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Applied to pieces of a
batch it is gradient accumulation with the loss of the whole batch, as a contrastive loss needs it
(Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Calls `function`, whose weights are in `module`, without keeping what it computes inside."""
    found: Tensor = checkpoint(
        function,
        *arguments,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _frozen_statistics(module)),
    )
    return found


def in_pieces(
    module: nn.Module, function: Callable[[Tensor], Tensor], batch: Tensor, rows: int | None
) -> Tensor:
    """Applies `function` to at most `rows` rows at a time, each piece recomputed for its gradients.

    Args:
        batch: [batch, ...].
        rows: None for all of them at once, with nothing recomputed.
    """
    if rows is None or len(batch) <= rows:
        return function(batch)
    return torch.cat([recomputed(module, function, piece) for piece in batch.split(rows)])


def has_batch_statistics(module: nn.Module) -> bool:
    """Tells whether a row's result depends on the rows beside it, as under BatchNorm."""
    return any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keeps BatchNorm from counting a batch a second time when it is recomputed."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [(n, n.momentum, cast(Tensor, n.num_batches_tracked).clone()) for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.num_batches_tracked = batches
