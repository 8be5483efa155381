"""Weights under the original's names: what their names and shapes tell."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensors
from clip_core.config import ClipConfig, ResNetConfig, TextConfig, VitConfig
from clip_core.variants import VARIANTS

# Weights that only models beyond the original's design have, by the beginning of their names.
_FOREIGN = {
    "logit_bias": "the bias of SigLIP",
    "text_decoder.": "the text decoder of CoCa",
    "visual.attn_pool.": "an attentional pooling",
    "visual.trunk.": "an image tower of timm",
    "transformer.embeddings.": "a text tower of Hugging Face",
}
# Heads by width: of the named architectures, and of open_clip's others.
_IMAGE_TOWERS = [variant.vision for variant in VARIANTS.values()]
_VIT_HEADS = {384: 6, 512: 8, 1792: 16} | {
    tower.width: tower.heads for tower in _IMAGE_TOWERS if isinstance(tower, VitConfig)
}
_POOL_HEADS = {
    tower.width: tower.heads for tower in _IMAGE_TOWERS if isinstance(tower, ResNetConfig)
}
_TEXT_HEADS = {256: 4, 384: 6, 1152: 16} | {
    variant.text.width: variant.text.heads for variant in VARIANTS.values()
}


def config_from_shapes(
    tensors: LazyTensors, activation: str, head_width: int | None = None
) -> ClipConfig:
    """Infers the architecture from weights under the original's names.

    Shapes do not tell the number of heads: it is that of the named architectures of this width.

    Args:
        head_width: of other widths; None where nobody knows it.

    Raises:
        CheckpointError: if the weights are not those of a CLIP, or the number of heads is unknown.
    """
    refuse_foreign(tensors)
    try:
        vision = _vit_from_shapes if "visual.proj" in tensors else _resnet_from_shapes
        config = ClipConfig(
            embed_dim=tensors["text_projection"].shape[1],
            vision=vision(tensors, head_width),
            text=_text_from_shapes(tensors, head_width),
            activation=activation,
        )
        return _as_named(config)
    except CheckpointError:
        raise
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"no weight {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"expected the weights of a CLIP under the names of OpenAI or open_clip, got {what}; "
            "other families of models are not supported"
        ) from error


def refuse_foreign(tensors: LazyTensors) -> None:
    """Refuses weights that are beyond the original's design.

    Raises:
        CheckpointError: names what they are of.
    """
    for prefix, what in _FOREIGN.items():
        if any(name.startswith(prefix) for name in tensors):
            raise CheckpointError(f"the checkpoint has {what} ({prefix}), which is not supported")


def _heads(tower: str, width: int, known: dict[int, int], head_width: float | None) -> int:
    if width not in known and head_width is None:
        raise CheckpointError(
            f"the weights do not tell how many heads their {tower} of width {width} has, and no "
            "known architecture has this width; put the model's open_clip_config.json or "
            "config.json beside them, which says it"
        )
    return known.get(width) or max(1, int(width // (head_width or width)))


def _as_named(config: ClipConfig) -> ClipConfig:
    """Takes the exact ratios of a named architecture, which widths give but rounded."""
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


def _vit_from_shapes(tensors: LazyTensors, head_width: int | None) -> VitConfig:
    width, _, _, patch = tensors["visual.conv1.weight"].shape
    grid = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
    inside = tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    layers = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\.")
    heads = _heads("image tower", width, _VIT_HEADS, head_width)
    return VitConfig(patch * grid, patch, width, layers, heads, inside / width)


def _resnet_from_shapes(tensors: LazyTensors, head_width: int | None) -> ResNetConfig:
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    grid = math.isqrt(tensors["visual.attnpool.positional_embedding"].shape[0] - 1)
    layers = tuple(_count(tensors, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    pool_head_width = head_width and head_width / 32  # the pool is 32 times as wide
    heads = _heads("attention pool", width, _POOL_HEADS, pool_head_width)
    return ResNetConfig(32 * grid, width, layers, heads)


def _text_from_shapes(tensors: LazyTensors, head_width: int | None) -> TextConfig:
    context_length, width = tensors["positional_embedding"].shape
    vocab_size = tensors["token_embedding.weight"].shape[0]
    inside = tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    layers = _count(tensors, r"transformer\.resblocks\.(\d+)\.")
    heads = _heads("text tower", width, _TEXT_HEADS, head_width)
    return TextConfig(context_length, vocab_size, width, layers, heads, inside / width)


def _count(tensors: LazyTensors, pattern: str) -> int:
    found = (re.match(pattern, name) for name in tensors)
    return len({match.group(1) for match in found if match})
