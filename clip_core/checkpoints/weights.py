"""Builds a model from the weights of a checkpoint, which must be all there, and numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensors
from clip_core.checkpoints.reading import Checkpoint
from clip_core.model import Clip

_OPTIONAL = "num_batches_tracked"  # counts training steps; files of old releases lack it
_NAMED = 3  # weights named in a message, of many


def build(checkpoint: Checkpoint) -> Clip:
    """Fills a model, built without storage, tensor by tensor: the peak is the model plus one.

    Raises:
        CheckpointError: if weights are missing, unexpected, misshapen, unreadable or no numbers.
    """
    with torch.device("meta"):
        clip = Clip(checkpoint.config)
    expected = {name: tuple(tensor.shape) for name, tensor in clip.state_dict().items()}
    _check_tensors(checkpoint.tensors, expected)
    state = {}
    for name, shape in expected.items():
        if name not in checkpoint.tensors:
            state[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        try:
            tensor = checkpoint.tensors[name].load()
            tensor = tensor if name.endswith(_OPTIONAL) else _as_floats(name, tensor)
            state[name] = tensor.reshape(shape).contiguous()
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).split("\n", 1)[0]
            raise CheckpointError(
                f"weight {name} cannot be read ({reason}); download the model again"
            ) from error
    _check_finite(state)
    clip.load_state_dict(state, assign=True)
    return clip.eval().requires_grad_(False)


def _as_floats(name: str, tensor: Tensor) -> Tensor:
    """Refuses the integers of a quantised model, which mean nothing without their scales."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"weight {name} holds {kind}, expected floats; take the model as it was before it was "
            "quantised"
        )
    return tensor.float()


def _check_tensors(tensors: LazyTensors, expected: dict[str, tuple[int, ...]]) -> None:
    differences = [f"- missing {n}" for n in expected if n not in tensors and _OPTIONAL not in n]
    differences += [f"+ unexpected {name}" for name in tensors if name not in expected]
    for name, shape in expected.items():
        # open_clip may store the temperature as a vector of one.
        found = tensors[name].shape if name in tensors else shape
        if found != shape and not (name == "logit_scale" and found == (1,)):
            differences.append(f"~ {name} has shape {found}, expected {shape}")
    if differences:
        raise CheckpointError(
            "the checkpoint does not fit the model it describes:\n" + "\n".join(sorted(differences))
        )


def _check_finite(state: dict[str, Tensor]) -> None:
    """Refuses weights that are no numbers, of which a ReLU makes zeros: nothing would show it."""
    weights = {name: tensor for name, tensor in state.items() if not name.endswith(_OPTIONAL)}
    wrong = [name for name, tensor in weights.items() if not _is_finite(tensor)]
    if wrong:
        names = ", ".join([*wrong[:_NAMED], *(["..."] if len(wrong) > _NAMED else [])])
        raise CheckpointError(
            f"{len(wrong)} of {len(weights)} weights hold NaN or infinity ({names}); download the "
            "model again, or take an earlier checkpoint of it"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Adds up first, in a tenth of the time: the sum of what is finite mostly is, too."""
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())
