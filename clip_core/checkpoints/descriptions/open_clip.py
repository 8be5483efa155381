"""open_clip's description of a model: open_clip_config.json."""

from __future__ import annotations

from clip_core.checkpoints.descriptions.settings import (
    Json,
    check_settings,
    described_in,
    side_of,
    three_of,
    width_of,
)
from clip_core.config import (
    HEAD_WIDTH,
    INTERPOLATIONS,
    OPENAI_MEAN,
    OPENAI_STD,
    RESIZE_MODES,
    ClipConfig,
    Resizing,
    ResNetConfig,
    TextConfig,
    VitConfig,
)

OPEN_CLIP_CONFIG = "open_clip_config.json"
# Any name makes open_clip read the tokenizer beside the file instead of its own; these are CLIP's.
TOKENIZER_NAMES = (
    "CLIPTokenizer",
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-large-patch14-336",
)
_MODEL = {
    "init_logit_bias": (None,),
    "multimodal_cfg": (None,),
    "nonscalar_logit_scale": (False, True),  # the shape of the temperature; see `weights`
}
_MODEL_WITHOUT_EFFECT = ("cast_dtype", "custom_text", "embed_dim", "init_logit_scale",
                         "output_dict", "quick_gelu", "text_cfg", "vision_cfg")  # fmt: skip
_TOWER = {
    "act_kwargs": (None, {"approximate": "none"}),
    "attentional_pool": (False,),
    "attn_type": (None,),
    "block_type": (None, "default"),
    "embed_cls": (False,),
    "final_ln_after_pool": (False,),
    "global_average_pool": (False,),
    "hf_model_name": (None,),
    "input_patchnorm": (False,),
    "ls_init_value": (None,),
    "no_causal_mask": (False,),
    "no_ln_pre": (False,),
    "norm_kwargs": (None, {"eps": 1e-5}),
    "pos_embed_type": ("learnable",),
    "proj_bias": (False,),
    "proj_type": ("linear",),
    "qk_norm": (False,),
    "scale_attn": (False,),
    "scale_attn_inner": (False,),
    "scale_fc": (False,),
    "scale_heads": (False,),
    "scaled_cosine_attn": (False,),
    "timm_model_name": (None,),
}
_VISION = _TOWER | {"pool_type": ("tok",)}
_TEXT = _TOWER | {
    "pool_type": ("argmax",),
    "hf_tokenizer_name": TOKENIZER_NAMES,
    "tokenizer_kwargs": (None, {"clean": "lower"}),
    "tokenizer_mode": (None,),
}
_VISION_WITHOUT_EFFECT = ("attn_pooler_heads", "attn_pooler_queries", "head_width", "image_size",
                          "layers", "mlp_ratio", "output_tokens", "patch_dropout", "patch_size",
                          "timm_drop", "timm_drop_path", "timm_model_pretrained", "timm_pool",
                          "timm_proj", "timm_proj_bias", "width")  # fmt: skip
_TEXT_WITHOUT_EFFECT = ("context_length", "dropout", "eos_id", "heads", "hf_model_pretrained",
                        "hf_pooler_type", "hf_proj_type", "layers", "mlp_ratio", "output_tokens",
                        "pad_id", "vocab_size", "width")  # fmt: skip
_PREPROCESS = {
    "interpolation": (*INTERPOLATIONS, "random"),
    "mode": ("RGB",),
    "resize_mode": RESIZE_MODES,
}
_PREPROCESS_WITHOUT_EFFECT = ("fill_color", "mean", "size", "std")  # the tower's size decides


def config_from_open_clip(document: Json) -> ClipConfig:
    """Reads an open_clip_config.json.

    Raises:
        CheckpointError: if it is not one, or describes a variant beyond the original's design.
    """
    with described_in(OPEN_CLIP_CONFIG):
        model, preprocess = document["model_cfg"], document.get("preprocess_cfg") or {}
        _check(document, model, preprocess)
        return ClipConfig(
            embed_dim=model["embed_dim"],
            vision=_vision(model["vision_cfg"]),
            text=_text(model["text_cfg"]),
            activation="quick_gelu" if model.get("quick_gelu") else "gelu",
            # What is false is none to open_clip.
            mean=three_of(preprocess.get("mean") or None, OPENAI_MEAN),
            std=three_of(preprocess.get("std") or None, OPENAI_STD),
            resizing=_resizing(preprocess),
        )


def _check(document: Json, model: Json, preprocess: Json) -> None:
    text = dict(model["text_cfg"])
    if text.get("hf_tokenizer_name") and text.get("tokenizer_kwargs") == {"clean": "whitespace"}:
        del text["tokenizer_kwargs"]  # that tokenizer lowers by itself
    check_settings(OPEN_CLIP_CONFIG, document, {}, ("model_cfg", "preprocess_cfg"))
    for where, settings, plain, without_effect in (
        ("model_cfg", model, _MODEL, _MODEL_WITHOUT_EFFECT),
        ("vision_cfg", model["vision_cfg"], _VISION, _VISION_WITHOUT_EFFECT),
        ("text_cfg", text, _TEXT, _TEXT_WITHOUT_EFFECT),
        ("preprocess_cfg", preprocess, _PREPROCESS, _PREPROCESS_WITHOUT_EFFECT),
    ):
        check_settings(f"open_clip {where}", settings, plain, without_effect)


def _resizing(preprocess: Json) -> Resizing:
    # open_clip draws a `random` interpolation in training only; else it is bicubic.
    kernel = "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
    mode = preprocess.get("resize_mode") or RESIZE_MODES[0]
    fill = preprocess.get("fill_color")
    return Resizing(mode, kernel, 0 if fill is None else fill)


def _vision(vision: Json) -> VitConfig | ResNetConfig:
    size, width = side_of(vision, "image_size", 224), vision.get("width", 768)
    layers, head_width = vision.get("layers", 12), width_of(vision, "head_width", HEAD_WIDTH)
    if isinstance(layers, list):
        return ResNetConfig(size, width, tuple(layers), width * 32 // head_width)
    patch, ratio = side_of(vision, "patch_size", 16), vision.get("mlp_ratio", 4.0)
    return VitConfig(size, patch, width, layers, width // head_width, ratio)


def _text(text: Json) -> TextConfig:
    return TextConfig(
        context_length=text.get("context_length", 77),
        vocab_size=text.get("vocab_size", 49408),
        width=text.get("width", 512),
        layers=text.get("layers", 12),
        heads=text.get("heads", 8),
        mlp_ratio=text.get("mlp_ratio", 4.0),
    )
