"""Weights under the original's names: wrappers taken off, and what their shapes tell."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensors
from clip_core.config import (
    HEAD_WIDTH,
    ClipConfig,
    ResNetConfig,
    TextConfig,
    VitConfig,
)
from clip_core.variants import VARIANTS

# Weights that only models beyond the original's design have, by the beginning of their names.
_FOREIGN = {
    "logit_bias": "the bias of SigLIP",
    "text_decoder.": "the text decoder of CoCa",
    "visual.attn_pool.": "an attentional pooling",
    "visual.trunk.": "an image tower of timm",
    "transformer.embeddings.": "a text tower of Hugging Face",
}
# Integers the original stores beside its weights; they follow from the shapes.
_SIZES = ("input_resolution", "context_length", "vocab_size")
_CUSTOM_TEXT = re.compile(
    r"^text\.(?=positional_embedding|text_projection|token_embedding|transformer\.|ln_final\.)"
)


def config_from_shapes(tensors: LazyTensors, activation: str) -> ClipConfig:
    """Infers the architecture from weights under the original's names.

    Shapes do not tell the number of heads: it is that of the named architecture with these shapes,
    else heads are 64 wide, as in all published models.

    Raises:
        CheckpointError: if the weights are not those of a CLIP.
    """
    for prefix, what in _FOREIGN.items():
        if any(name.startswith(prefix) for name in tensors):
            raise CheckpointError(f"the checkpoint has {what} ({prefix}), which is not supported")
    try:
        vision = _vit_from_shapes if "visual.proj" in tensors else _resnet_from_shapes
        config = ClipConfig(
            embed_dim=tensors["text_projection"].shape[1],
            vision=vision(tensors),
            text=_text_from_shapes(tensors),
            activation=activation,
        )
        return _with_known_heads(config)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"no weight {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"expected the weights of a CLIP under the names of OpenAI or open_clip, got {what}; "
            "other families of models are not supported"
        ) from error


def unwrapped(tensors: LazyTensors) -> LazyTensors:
    """Takes off `state_dict.`, `module.` and `text.`, and drops the sizes stored beside weights."""
    for wrapper in ("state_dict.", "module."):
        inside = {n.removeprefix(wrapper): t for n, t in tensors.items() if n.startswith(wrapper)}
        if "logit_scale" in inside or any(name.startswith("module.") for name in inside):
            tensors = inside
    renamed = {_CUSTOM_TEXT.sub("", name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in renamed.items() if name not in _SIZES}


def _with_known_heads(config: ClipConfig) -> ClipConfig:
    for known in VARIANTS.values():
        vision, text = known.vision, known.text
        if _widths(vision) == _widths(config.vision) and _widths(text) == _widths(config.text):
            sizes = {"context_length": config.text.context_length}
            sizes["vocab_size"] = config.text.vocab_size
            return replace(
                config,
                vision=replace(vision, image_size=config.vision.image_size),
                text=replace(text, **sizes),
            )
    return config


def _widths(tower: VitConfig | ResNetConfig | TextConfig) -> tuple[object, ...]:
    patch = tower.patch_size if isinstance(tower, VitConfig) else None
    ratio = None if isinstance(tower, ResNetConfig) else tower.mlp_ratio
    inside = ratio and round(tower.width * ratio)
    return type(tower), tower.width, tower.layers, patch, inside


def _vit_from_shapes(tensors: LazyTensors) -> VitConfig:
    width, _, _, patch = tensors["visual.conv1.weight"].shape
    grid = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
    inside = tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    layers = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\.")
    return VitConfig(
        patch * grid, patch, width, layers, max(1, width // HEAD_WIDTH), inside / width
    )


def _resnet_from_shapes(tensors: LazyTensors) -> ResNetConfig:
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    grid = math.isqrt(tensors["visual.attnpool.positional_embedding"].shape[0] - 1)
    layers = tuple(_count(tensors, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    return ResNetConfig(32 * grid, width, layers, max(1, width * 32 // HEAD_WIDTH))


def _text_from_shapes(tensors: LazyTensors) -> TextConfig:
    context_length, width = tensors["positional_embedding"].shape
    vocab_size = tensors["token_embedding.weight"].shape[0]
    inside = tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    layers = _count(tensors, r"transformer\.resblocks\.(\d+)\.")
    heads = max(1, width // HEAD_WIDTH)
    return TextConfig(context_length, vocab_size, width, layers, heads, inside / width)


def _count(tensors: LazyTensors, pattern: str) -> int:
    found = (re.match(pattern, name) for name in tensors)
    return len({match.group(1) for match in found if match})
