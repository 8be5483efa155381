"""Reads a checkpoint of any supported form: what model it holds, and its weights, lazily.

Forms: an OpenAI TorchScript archive, a state dict (.pt, .bin, .safetensors), a directory of
open_clip (open_clip_config.json) or of Hugging Face (config.json). No pickle is executed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clip_core.checkpoints.hugging_face import config_from_hugging_face, from_hugging_face
from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensor, LazyTensors
from clip_core.checkpoints.open_clip import config_from_open_clip
from clip_core.checkpoints.published import SHA256, file_sha256
from clip_core.checkpoints.state_dict import config_from_shapes, unwrapped
from clip_core.checkpoints.torch_archive import is_archive, is_torchscript, read_archive
from clip_core.checkpoints.vocabulary import FILE_NAMES as VOCABULARY_FILES
from clip_core.config import ACTIVATIONS, ClipConfig
from clip_core.variants import OPEN_CLIP, VARIANTS

OPEN_CLIP_CONFIG = "open_clip_config.json"
HF_CONFIG = "config.json"
HF_PREPROCESSOR = "preprocessor_config.json"
_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
)
_INDEX = ".index.json"  # names the files over which large weights are spread
_HF_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What torch's restricted unpickler raises on bytes that are no pickle of its own.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
               AttributeError, AssertionError, OSError, OverflowError, MemoryError,
               struct.error)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been looked at, its weights still on disk.

    Attributes:
        tensors: by the original's names.
        sha256: hex digest of the weights file; of several, of their digests in order.
    """

    config: ClipConfig
    tensors: LazyTensors
    sha256: str


def read_checkpoint(
    path: Path, *, arch: str | None = None, activation: str | None = None
) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: a file or a directory.
        arch: a name of `VARIANTS`, where a bare state dict's shapes do not tell (heads).
        activation: `quick_gelu` or `gelu`, needed for a bare state dict, which does not record it;
            an `arch` implies it only if it is one of open_clip's names.

    Raises:
        CheckpointError: if there is none, or it is damaged, hostile or of another family.
    """
    if not path.exists():
        raise CheckpointError(
            f"there is no model at {path}; expected a name, a file or a directory"
        )
    if path.is_dir():
        if arch or activation:
            raise CheckpointError(
                f"{path} is a model directory, whose configuration says what it is; leave out "
                "`arch` and `activation`, which are for a bare state dict"
            )
        return _read_directory(path)
    return _read_file(path, arch, activation)


def needed_files(names: Collection[str]) -> list[str]:
    """Picks from the file names of a model directory those that loading it reads."""
    order = _OPEN_CLIP_WEIGHTS if OPEN_CLIP_CONFIG in names else _HF_WEIGHTS
    weights = next((name for name in order if name in names), "")
    needed = {OPEN_CLIP_CONFIG, HF_CONFIG, HF_PREPROCESSOR, *VOCABULARY_FILES, weights}
    if weights.endswith(_INDEX):
        stem, suffix = weights.removesuffix(_INDEX).split(".")
        needed |= {n for n in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", n)}
    return sorted(needed.intersection(names))


def _read_directory(path: Path) -> Checkpoint:
    if (path / OPEN_CLIP_CONFIG).exists():
        config = config_from_open_clip(_json(path / OPEN_CLIP_CONFIG))
        weights = [_first_existing(path, _OPEN_CLIP_WEIGHTS)]
        return Checkpoint(config, unwrapped(_tensors(weights[0])), file_sha256(weights[0]))
    if (path / HF_CONFIG).exists():
        preprocessor = path / HF_PREPROCESSOR
        settings = _json(preprocessor) if preprocessor.exists() else {}
        config = config_from_hugging_face(_json(path / HF_CONFIG), settings)
        weights = _hf_weights(path)
        tensors = {name: tensor for file in weights for name, tensor in _tensors(file).items()}
        return Checkpoint(config, from_hugging_face(tensors), _digest_of(weights))
    raise CheckpointError(
        f"expected {OPEN_CLIP_CONFIG} or {HF_CONFIG} in {path}; it is not a model directory"
    )


def _read_file(path: Path, arch: str | None, activation: str | None) -> Checkpoint:
    if arch is not None and arch not in VARIANTS:
        raise CheckpointError(f"unknown `arch` {arch!r}; expected one of {', '.join(VARIANTS)}")
    sha256 = file_sha256(path)
    tensors = unwrapped(_tensors(path))
    if activation is None and arch in OPEN_CLIP:  # its names tell the activation
        activation = OPEN_CLIP[arch].activation
    activation = activation or _activation(path, sha256)
    if arch is None:
        config = config_from_shapes(tensors, activation)
    else:
        config = replace(VARIANTS[arch], activation=activation)
    return Checkpoint(config, tensors, sha256)


def _activation(path: Path, sha256: str) -> str:
    """Returns OpenAI's activation for OpenAI's files; other weights do not say which they use."""
    if sha256 in SHA256.values() or (is_archive(path) and is_torchscript(path)):
        return ACTIVATIONS[0]
    raise CheckpointError(
        f"{path.name} is a bare state dict, which does not tell its activation; pass "
        "`quick_gelu` as `activation` (OpenAI, and configurations named so) or `gelu`, or `arch` "
        "with the name that open_clip gives the architecture"
    )


def _tensors(path: Path) -> LazyTensors:
    """Lists the tensors of one weights file, by the form its content shows."""
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if is_archive(path):
        return read_archive(path)
    return _legacy_pickle(path)


def _safetensors(path: Path) -> LazyTensors:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is damaged or not a safetensors file ({error}); download it again"
        ) from error
    return {
        name: LazyTensor(shape, partial(_read_safetensor, path, name))
        for name, shape in shapes.items()
    }


def _read_safetensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        found: Tensor = file.get_tensor(name)
        return found


def _legacy_pickle(path: Path) -> LazyTensors:
    """Reads what torch wrote before 1.6; torch's own restricted unpickler does it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(_flat(content, ""))
    except _UNREADABLE as error:
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{path.name} is not a file of weights that can be read safely ({reason}); expected "
            "safetensors or a torch archive"
        ) from error


def _flat(content: Any, prefix: str) -> list[tuple[str, LazyTensor]]:
    if isinstance(content, Tensor):
        return [(prefix, LazyTensor(tuple(content.shape), lambda: content))]
    if not isinstance(content, Mapping):
        return []
    dotted = ((f"{prefix}.{name}" if prefix else str(name), v) for name, v in content.items())
    return [pair for name, value in dotted for pair in _flat(value, name)]


def _hf_weights(path: Path) -> list[Path]:
    weights = _first_existing(path, _HF_WEIGHTS)
    if weights.suffix != ".json":
        return [weights]
    weight_map = _json(weights).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{weights.name} names no files; download it again")
    shards = [path / Path(str(file)).name for file in dict.fromkeys(weight_map.values())]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        raise CheckpointError(f"{weights.name} names {missing}, which are not there")
    return shards


def _first_existing(path: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"no weights in {path}; expected one of {', '.join(names)}")


def _digest_of(files: list[Path]) -> str:
    digests = [file_sha256(file) for file in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not JSON ({error}); download it again") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"expected an object in {path.name}, got {type(content).__name__}")
    return content
