"""Lists the tensors of weight files, by the form of their content; no pickle is executed."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clip_core.checkpoints.descriptions.settings import read_json
from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensor, LazyTensors
from clip_core.checkpoints.torch_archive import is_archive, read_archive
from clip_core.checkpoints.wrapping import innermost

INDEX = ".index.json"  # names the files over which large weights are spread
# What torch's restricted unpickler raises on bytes that are no pickle of its own.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
               AttributeError, AssertionError, OSError, OverflowError, MemoryError,
               struct.error)  # fmt: skip


def tensors_of(path: Path) -> LazyTensors:
    """Lists the tensors of one weights file.

    Raises:
        CheckpointError: if it is damaged, names code, or holds several models.
    """
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if is_archive(path):
        return read_archive(path)
    return _legacy_pickle(path)


def shards_of(weights: Path) -> list[Path]:
    """Returns the files that an index names, or the file itself.

    Raises:
        CheckpointError: if it is no index, or one of them is not there.
    """
    if not weights.name.endswith(INDEX):
        return [weights]
    weight_map = read_json(weights).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{weights.name} names no files; download it again")
    names = dict.fromkeys(Path(str(file)).name for file in weight_map.values())
    missing = [name for name in names if not (weights.parent / name).exists()]
    if missing:
        raise CheckpointError(f"{weights.name} names {missing}, which are not there")
    return [weights.parent / name for name in names]


def _safetensors(path: Path) -> LazyTensors:
    try:
        file: Any = safe_open(path, framework="pt")  # once, as it parses the header anew
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is damaged or not a safetensors file ({error}); download it again"
        ) from error
    return {
        name: LazyTensor(shape, partial(file.get_tensor, name)) for name, shape in shapes.items()
    }


def _legacy_pickle(path: Path) -> LazyTensors:
    """Reads what torch wrote before 1.6; torch's own restricted unpickler does it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{path.name} is not a file of weights that can be read safely ({reason}); expected "
            "safetensors or a torch archive"
        ) from error
    return dict(innermost(_lazy(content), path.name))


def _lazy(content: Any) -> Any:
    """Puts lazy tensors in the place of tensors."""
    if isinstance(content, Tensor):
        return LazyTensor(tuple(content.shape), lambda: content)
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if isinstance(content, Mapping):
        return {str(name): _lazy(value) for name, value in content.items()}
    return None
