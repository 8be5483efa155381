"""open_clip's checkpoints: their open_clip_config.json."""

from __future__ import annotations

from typing import Any

from clip_core.checkpoints.settings import Json, described_in, refuse_variants, width_of
from clip_core.config import (
    HEAD_WIDTH,
    OPENAI_MEAN,
    OPENAI_STD,
    ClipConfig,
    ConfigError,
    ResNetConfig,
    TextConfig,
    VitConfig,
)

# open_clip's settings that change the model, and the value that leaves it a plain CLIP.
_PLAIN_MODEL = {"init_logit_bias": None, "multimodal_cfg": None, "nonscalar_logit_scale": False}
_PLAIN_TOWER = {
    "act_kwargs": None,
    "attentional_pool": False,
    "attn_type": None,
    "block_type": None,
    "embed_cls": False,
    "final_ln_after_pool": False,
    "global_average_pool": False,
    "hf_model_name": None,
    "input_patchnorm": False,
    "ls_init_value": None,
    "no_causal_mask": False,
    "no_ln_pre": False,
    "norm_kwargs": None,
    "pos_embed_type": "learnable",
    "proj_bias": False,
    "proj_type": "linear",
    "qk_norm": False,
    "timm_model_name": None,
}
_PLAIN_POOL = {"vision_cfg": "tok", "text_cfg": "argmax"}


def config_from_open_clip(document: Json) -> ClipConfig:
    """Reads an open_clip_config.json.

    Raises:
        CheckpointError: if it is not one, or describes a variant beyond the original's design.
    """
    with described_in("open_clip_config.json"):
        model, preprocess = document["model_cfg"], document.get("preprocess_cfg") or {}
        refuse_variants("open_clip model", model, _PLAIN_MODEL)
        for tower in ("vision_cfg", "text_cfg"):
            plain = _PLAIN_TOWER | {"pool_type": _PLAIN_POOL[tower]}
            refuse_variants(f"open_clip {tower}", model[tower], plain)
        plain = {"interpolation": "bicubic", "resize_mode": "shortest", "mode": "RGB"}
        refuse_variants("open_clip preprocess_cfg", preprocess, plain)
        return ClipConfig(
            embed_dim=model["embed_dim"],
            vision=_open_clip_vision(model["vision_cfg"]),
            text=_open_clip_text(model["text_cfg"]),
            activation="quick_gelu" if model.get("quick_gelu") else "gelu",
            mean=tuple(preprocess.get("mean") or OPENAI_MEAN),
            std=tuple(preprocess.get("std") or OPENAI_STD),
        )


def _open_clip_vision(vision: Json) -> VitConfig | ResNetConfig:
    size = _side(vision.get("image_size", 224))
    width, layers = vision.get("width", 768), vision["layers"]
    head_width = width_of(vision, "head_width", HEAD_WIDTH)
    if isinstance(layers, list):
        return ResNetConfig(size, width, tuple(layers), width * 32 // head_width)
    ratio = vision.get("mlp_ratio", 4.0)
    return VitConfig(size, vision["patch_size"], width, layers, width // head_width, ratio)


def _side(size: Any) -> Any:
    sides = size if isinstance(size, list) else [size]
    if len(set(sides)) != 1:
        raise ConfigError(f"`image_size` must be one number or two equal ones, got {size!r}")
    return sides[0]


def _open_clip_text(text: Json) -> TextConfig:
    return TextConfig(
        context_length=text.get("context_length", 77),
        vocab_size=text.get("vocab_size", 49408),
        width=text.get("width", 512),
        layers=text.get("layers", 12),
        heads=text.get("heads", 8),
        mlp_ratio=text.get("mlp_ratio", 4.0),
    )
