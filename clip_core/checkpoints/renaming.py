"""Hugging Face's names of weights, there and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from clip_core.checkpoints.lazy_tensor import LazyTensor, LazyTensors

_HF_POSITION_IDS = ".embeddings.position_ids"
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TOWERS = {"visual.transformer.": "vision_model.encoder.", "transformer.": "text_model.encoder."}
_OUTSIDE_BLOCKS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
# Stored [width, embed_dim] by the original, as the weight of a linear map by Hugging Face. Decided
# by name alone: in half of the published models the matrix is square.
_TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


def is_hugging_face(names: Iterable[str]) -> bool:
    """Tells whether weights have the names of Hugging Face's CLIP."""
    return any(name.startswith(("vision_model.", "text_model.")) for name in names)


def from_hugging_face(tensors: LazyTensors) -> LazyTensors:
    """Renames a Hugging Face CLIP's weights; names without a counterpart are kept as they are."""
    left = {name: t for name, t in tensors.items() if not name.endswith(_HF_POSITION_IDS)}
    found: dict[str, LazyTensor] = {}
    for ours, theirs in _OUTSIDE_BLOCKS.items():
        if theirs in left:
            found[ours] = left.pop(theirs)
    for ours, theirs in _TRANSPOSED.items():
        if theirs in left:
            found[ours] = _transposed(left.pop(theirs))
    for ours, theirs in _TOWERS.items():
        for number in _block_numbers(left, theirs + "layers."):
            block = _take(left, f"{theirs}layers.{number}.")
            prefix = f"{ours}resblocks.{number}."
            found.update({prefix + name: tensor for name, tensor in _from_hf_block(block)})
    return found | left


def to_hugging_face(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames a ViT CLIP's weights to Hugging Face's names."""
    found = {theirs: state_dict[ours] for ours, theirs in _OUTSIDE_BLOCKS.items()}
    found |= {theirs: state_dict[ours].T for ours, theirs in _TRANSPOSED.items()}
    for ours, theirs in _TOWERS.items():
        for name, tensor in state_dict.items():
            if name.startswith(ours + "resblocks."):
                number, inside = name.removeprefix(ours + "resblocks.").split(".", 1)
                for renamed, part in _to_hf_block(inside, tensor):
                    found[f"{theirs}layers.{number}.{renamed}"] = part
    return found


def _from_hf_block(block: dict[str, LazyTensor]) -> Iterator[tuple[str, LazyTensor]]:
    for kind in ("weight", "bias"):
        names = [f"self_attn.{letter}_proj.{kind}" for letter in "qkv"]
        if all(name in block for name in names):
            yield f"attn.in_proj_{kind}", _stacked([block.pop(name) for name in names])
        for ours, theirs in _BLOCK.items():
            if f"{theirs}.{kind}" in block:
                yield f"{ours}.{kind}", block.pop(f"{theirs}.{kind}")
    yield from block.items()  # unknown: reported as unexpected


def _to_hf_block(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            yield f"self_attn.{letter}_proj.{kind}", part
        return
    inside, _, kind = name.rpartition(".")
    yield f"{_BLOCK[inside]}.{kind}", tensor


def _block_numbers(tensors: LazyTensors, prefix: str) -> list[str]:
    inside = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return sorted({name.split(".", 1)[0] for name in inside}, key=lambda n: (len(n), n))


def _take(tensors: dict[str, LazyTensor], prefix: str) -> dict[str, LazyTensor]:
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _transposed(tensor: LazyTensor) -> LazyTensor:
    return LazyTensor(tensor.shape[::-1], lambda: tensor.load().T.contiguous())


def _stacked(parts: Sequence[LazyTensor]) -> LazyTensor:
    """Query, key and value rows in this order."""
    rows = sum(part.shape[0] if part.shape else 0 for part in parts)
    return LazyTensor(
        (rows, *parts[0].shape[1:]), lambda: torch.cat([part.load() for part in parts])
    )
