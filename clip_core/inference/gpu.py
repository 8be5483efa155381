"""Makes a model ready to encode on a GPU, which should not wait for Python to launch its kernels.

A batch of images of a size that was met before is replayed as one CUDA graph. That leaves Python
the time to launch the kernels of captions, whose shapes differ from batch to batch. On demand, what
a block does to each token alone is compiled, so that its element-wise steps become few kernels.

Both are compared with the plain model, on the machine they run on, before they are used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from clip_core.model import Block, Clip, Transformer, VisionTransformer

Encode = Callable[[Tensor], Tensor]
_LOG = logging.getLogger(__name__)
# Each holds the memory of a batch. Full batches come twice before any other size does, so they have
# one; the others are for sizes that follow when memory runs out, and for ends of units.
MAX_GRAPHS = 4


class NotEqualError(RuntimeError):
    """A faster way gave other numbers."""


def ready_for_gpu(clip: Clip, compiled: bool) -> None:
    """Prepares a model on a GPU, in place; embeddings are equal to within rounding.

    Args:
        compiled: whether to compile the blocks, which takes up to a minute.

    Raises:
        ValueError: if they cannot be compiled.
    """
    if compiled:
        compile_blocks(clip.transformer)
        if isinstance(clip.visual, VisionTransformer):
            compile_blocks(clip.visual.transformer)
    clip.visual = GraphedEncoder(clip.visual, capture)


@torch.inference_mode()
def compile_blocks(tower: Transformer) -> None:
    """Compiles what the blocks of a tower do after attention, once for all of them.

    Raises:
        ValueError: if that cannot be done here, or changes the numbers.
    """
    compiled = torch.compile(Block.finish, dynamic=True)

    def finish(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
        # Rows of tokens, so that the ranks of batches do not each need a compilation.
        return compiled(block, x.flatten(0, -2), mixed.flatten(0, -2)).view(x.shape)

    first = tower.blocks[0]
    weight = first.mlp.c_fc.weight
    # Two tensors, not halves of one: compiled code depends on where in its memory a tensor begins.
    x, mixed = (torch.arange(24 * weight.shape[1]).view(24, -1).sin().to(weight) for _ in range(2))
    try:
        _check_equal(finish(first, x, mixed), first.finish(x, mixed))
    except Exception as error:  # of torch's compiler, of Triton's, or of the C compiler it calls
        raise ValueError(
            f"the model's blocks cannot be compiled here ({_brief(error)}); install a C compiler, "
            "or go on without compiling"
        ) from error
    for block in tower.blocks:
        block.finish = finish.__get__(block)  # type: ignore[method-assign]


class GraphedEncoder(nn.Module):
    """An image encoder whose batches are replayed as graphs, once their size was met before.

    Threads may share it: what they ask for is replayed one after the other.

    Args:
        encode: [batch, 3, size, size] -> [batch, embed_dim].
        capture: makes a function of one shape from it and from an example.
    """

    def __init__(self, encode: nn.Module, capture: Callable[[Encode, Tensor], Encode]) -> None:
        super().__init__()
        self.encode = encode
        self._capture = capture
        self._lock = threading.Lock()
        self._sizes: set[int] = set()
        self._graphs: dict[int, Encode] = {}

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        with self._lock:
            if graph := self._graphs.get(len(pixels)):
                return graph(pixels)
            encoded: Tensor = self.encode(pixels)
            if len(pixels) not in self._sizes:
                self._sizes.add(len(pixels))
            elif len(self._graphs) < MAX_GRAPHS:
                self._graphs[len(pixels)] = self._try_graph(pixels, encoded)
            return encoded

    def _try_graph(self, pixels: Tensor, expected: Tensor) -> Encode:
        try:
            graph = self._capture(self.encode, pixels)
            _check_equal(graph(pixels), expected)
        except Exception as error:  # what cannot be captured makes CUDA or torch raise anything
            _LOG.warning("batches of %d go without a CUDA graph: %s", len(pixels), _brief(error))
            return self.encode
        return graph


def capture(encode: Encode, example: Tensor) -> Encode:
    """Records the kernels of one call as a CUDA graph.

    Returns:
        `encode` for tensors of the example's shape, dtype and device. It is not to be called by
        two threads at once, and always on the stream that is the current one now.
    """
    given = example.clone()
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on: they allocate pinned memory, which a stricter mode forbids.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = encode(given)

    def replay(x: Tensor) -> Tensor:
        given.copy_(x)
        graph.replay()
        return made.clone()

    return replay


def _check_equal(found: Tensor, expected: Tensor) -> None:
    """Raises `NotEqualError` unless two results differ by rounding alone."""
    allowed = max(1e-5, 4 * torch.finfo(expected.dtype).eps)
    difference = (found.float() - expected.float()).norm() / expected.float().norm()
    if not difference <= allowed:
        raise NotEqualError(f"expected a difference of {allowed:.0e} at most, got {difference:.0e}")


def _brief(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"
