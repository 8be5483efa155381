"""Reads a checkpoint of any supported form: what model it holds, and its weights, lazily.

Forms: an OpenAI TorchScript archive, a state dict (.pt, .bin, .safetensors), a directory of
open_clip (open_clip_config.json) or of Hugging Face (config.json), or a file in one. No pickle is
executed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from clip_core.checkpoints.descriptions.hugging_face import HF_CONFIG, config_from_hugging_face
from clip_core.checkpoints.descriptions.image_processor import (
    PREPROCESSOR,
    PROCESSOR,
    read_image_processor,
)
from clip_core.checkpoints.descriptions.open_clip import OPEN_CLIP_CONFIG, config_from_open_clip
from clip_core.checkpoints.descriptions.settings import Json, read_json
from clip_core.checkpoints.descriptions.tokenizer import FILES as TOKENIZER_FILES
from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensors
from clip_core.checkpoints.published import SHA256, file_sha256
from clip_core.checkpoints.renaming import from_hugging_face, is_hugging_face
from clip_core.checkpoints.state_dict import config_from_shapes, refuse_foreign
from clip_core.checkpoints.torch_archive import is_archive, is_torchscript
from clip_core.checkpoints.vocabulary import FILE_NAMES as VOCABULARY_FILES
from clip_core.checkpoints.weight_files import INDEX, shards_of, tensors_of
from clip_core.checkpoints.wrapping import with_original_names, without_prefix
from clip_core.config import ACTIVATIONS, HEAD_WIDTH, ClipConfig
from clip_core.variants import ACTIVATION_OF, VARIANTS

_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
)
_HF_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_ADAPTER = "adapter_config.json"  # which transformers would apply to the weights unasked
# What is read of a model directory beside weights.
DESCRIPTIONS = frozenset({OPEN_CLIP_CONFIG, HF_CONFIG, PROCESSOR, PREPROCESSOR, _ADAPTER,
                          *VOCABULARY_FILES, *TOKENIZER_FILES})  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been looked at, its weights still on disk.

    Attributes:
        tensors: by the original's names.
        sha256: hex digest of the weights file; of several, of their digests in order.
        directory: whose files describe it, and have its vocabulary, or None.
    """

    config: ClipConfig
    tensors: LazyTensors
    sha256: str
    directory: Path | None = None


def read_checkpoint(
    path: Path, *, arch: str | None = None, activation: str | None = None
) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: a file or a directory.
        arch: a name of `VARIANTS`, where a bare state dict's shapes do not tell (heads).
        activation: `quick_gelu` or `gelu`, needed for a bare state dict, which does not record it;
            most names imply it, see `ACTIVATION_OF`.

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
    needed = {*DESCRIPTIONS, weights}
    if weights.endswith(INDEX):
        stem, suffix = weights.removesuffix(INDEX).split(".")
        needed |= {n for n in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", n)}
    return sorted(needed.intersection(names))


def _read_directory(path: Path) -> Checkpoint:
    config = _described(path)
    if config is None:
        raise CheckpointError(
            f"expected {OPEN_CLIP_CONFIG} or {HF_CONFIG} in {path}; it is not a model directory"
        )
    order = _OPEN_CLIP_WEIGHTS if (path / OPEN_CLIP_CONFIG).exists() else _HF_WEIGHTS
    weights = shards_of(_first_existing(path, order))
    tensors = _by_our_names(_tensors(weights), path.name)
    return Checkpoint(config, tensors, _digest_of(weights), path)


def _read_file(path: Path, arch: str | None, activation: str | None) -> Checkpoint:
    if arch is not None and arch not in VARIANTS:
        raise CheckpointError(f"unknown `arch` {arch!r}; expected one of {', '.join(VARIANTS)}")
    shards = shards_of(path)
    sha256, found = _digest_of(shards), _tensors(shards)
    is_published = sha256 in SHA256.values()
    is_openai = is_published or (is_archive(path) and is_torchscript(path))
    described = None if is_published else _described(path.parent, of_file=True)
    tensors = _by_our_names(found, path.name)
    if described is None and is_hugging_face(without_prefix(found, path.name)):
        raise CheckpointError(
            f"{path.name} holds weights of Hugging Face's form, which do not tell what model they "
            f"are of; name the model's directory, with its {HF_CONFIG} in it"
        )
    config = _config_of_file(path, tensors, described, arch, activation, is_openai)
    return Checkpoint(config, tensors, sha256, path.parent if described else None)


def _config_of_file(
    path: Path,
    tensors: LazyTensors,
    described: ClipConfig | None,
    arch: str | None,
    activation: str | None,
    is_openai: bool,
) -> ClipConfig:
    """Returns what the caller says of a file, else what lies beside it, else what it tells."""
    activation = activation or (ACTIVATION_OF.get(arch) if arch else None)
    if described is not None:
        named = VARIANTS[arch] if arch else described
        return replace(
            described,
            embed_dim=named.embed_dim,
            vision=named.vision,
            text=named.text,
            activation=activation or described.activation,
        )
    if activation is None:
        activation = _activation_of(path, arch, is_openai)
    if arch is not None:
        refuse_foreign(tensors)
        return replace(VARIANTS[arch], activation=activation)
    return config_from_shapes(tensors, activation, HEAD_WIDTH if is_openai else None)


def _activation_of(path: Path, arch: str | None, is_openai: bool) -> str:
    """Returns OpenAI's activation for OpenAI's files; other weights do not say which they use."""
    if is_openai:
        return ACTIVATIONS[0]
    if f"{arch}-quickgelu" in VARIANTS:
        raise CheckpointError(
            f"`arch` {arch} names a model of OpenAI's and one of open_clip's with another "
            f"activation; pass `{arch}-quickgelu` as `arch` for OpenAI's, or `gelu` as "
            "`activation` for the other"
        )
    raise CheckpointError(
        f"{path.name} is a bare state dict, which does not tell its activation; pass "
        "`quick_gelu` as `activation` (OpenAI, and configurations named so) or `gelu`, or `arch` "
        "with the name that OpenAI or open_clip gives the architecture"
    )


def _described(directory: Path, of_file: bool = False) -> ClipConfig | None:
    """Returns what the files of a directory say of the model in it, if they do.

    Args:
        of_file: whether only a config.json counts that says it is a CLIP's, as any program may
            have put one beside a file.
    """
    config: ClipConfig | None = None
    if (directory / OPEN_CLIP_CONFIG).exists():
        config = config_from_open_clip(read_json(directory / OPEN_CLIP_CONFIG))
    elif (directory / HF_CONFIG).exists():
        document: Json = {}
        with suppress(*([CheckpointError] if of_file else [])):
            document = read_json(directory / HF_CONFIG)
        if not of_file or document.get("model_type") == "clip":
            config = config_from_hugging_face(document, *read_image_processor(directory))
    if (directory / _ADAPTER).exists() and (config or not of_file):
        raise CheckpointError(
            f"{directory.name} has an adapter ({_ADAPTER}), which is not supported; merge it into "
            "the model's weights, or move it elsewhere"
        )
    return config


def _tensors(files: list[Path]) -> LazyTensors:
    return {name: tensor for file in files for name, tensor in tensors_of(file).items()}


def _by_our_names(tensors: LazyTensors, origin: str) -> LazyTensors:
    tensors = without_prefix(tensors, origin)
    if is_hugging_face(tensors):
        return from_hugging_face(tensors)
    return with_original_names(tensors)


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
