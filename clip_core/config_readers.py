"""Works out a model's configuration: from shapes, or from open_clip's or Hugging Face's JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

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
from clip_core.lazy_tensor import CheckpointError, LazyTensors
from clip_core.variants import VARIANTS

Json = Mapping[str, Any]


# Weights that only models beyond the original's design have, by the beginning of their names.
_FOREIGN = {
    "logit_bias": "the bias of SigLIP",
    "text_decoder.": "the text decoder of CoCa",
    "visual.attn_pool.": "an attentional pooling",
    "visual.trunk.": "an image tower of timm",
    "transformer.embeddings.": "a text tower of Hugging Face",
}


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
    with _described_in("open_clip_config.json"):
        model, preprocess = document["model_cfg"], document.get("preprocess_cfg") or {}
        _refuse_variants("open_clip model", model, _PLAIN_MODEL)
        for tower in ("vision_cfg", "text_cfg"):
            plain = _PLAIN_TOWER | {"pool_type": _PLAIN_POOL[tower]}
            _refuse_variants(f"open_clip {tower}", model[tower], plain)
        plain = {"interpolation": "bicubic", "resize_mode": "shortest", "mode": "RGB"}
        _refuse_variants("open_clip preprocess_cfg", preprocess, plain)
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
    head_width = _width(vision, "head_width", HEAD_WIDTH)
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


# Defaults of Hugging Face's CLIPTextConfig and CLIPVisionConfig; a config.json may omit any.
_HF_TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
}
_HF_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
# What changes the pixels; whether grey pictures become RGB first is the user's choice.
_PLAIN_PREPROCESSOR = {
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": 3,  # Pillow's bicubic
    "rescale_factor": 1 / 255,
}
_HF_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}


def config_from_hugging_face(document: Json, preprocessor: Json) -> ClipConfig:
    """Reads a config.json and a preprocessor_config.json (empty where there is none).

    Raises:
        CheckpointError: if it is not a CLIP, or a setting is beyond the original's design.
    """
    kind = document.get("model_type", "clip")
    if kind != "clip":
        raise CheckpointError(f"expected a model of type 'clip', got {kind!r}; it is not supported")
    with _described_in("config.json"):
        # The legacy `*_config_dict` wins where it is not null, as in transformers itself.
        text = _HF_TEXT | dict(
            document.get("text_config_dict") or document.get("text_config") or {}
        )
        vision = _HF_VISION | dict(
            document.get("vision_config_dict") or document.get("vision_config") or {}
        )
        _refuse_preprocessing(preprocessor, vision["image_size"])
        return ClipConfig(
            embed_dim=document.get("projection_dim", 512),
            vision=VitConfig(
                vision["image_size"],
                vision["patch_size"],
                vision["hidden_size"],
                vision["num_hidden_layers"],
                vision["num_attention_heads"],
                vision["intermediate_size"] / _width(vision, "hidden_size"),
            ),
            text=TextConfig(
                text["max_position_embeddings"],
                text["vocab_size"],
                text["hidden_size"],
                text["num_hidden_layers"],
                text["num_attention_heads"],
                text["intermediate_size"] / _width(text, "hidden_size"),
            ),
            activation=_hf_activation(text, vision),
            mean=tuple(preprocessor.get("image_mean") or OPENAI_MEAN),
            std=tuple(preprocessor.get("image_std") or OPENAI_STD),
        )


def _refuse_preprocessing(preprocessor: Json, image_size: Any) -> None:
    """Refuses all but: the shortest edge resized to the model's size, then the middle cut out."""
    where = "preprocessor_config.json"
    _refuse_variants(where, preprocessor, _PLAIN_PREPROCESSOR)
    shortest_edge = {"shortest_edge": image_size}
    square = {"height": image_size, "width": image_size}
    for name, forms in {
        "size": (image_size, shortest_edge),  # a square would stretch the picture
        "crop_size": (image_size, shortest_edge, square),
    }.items():
        if preprocessor.get(name) not in forms:
            _refuse_variants(where, preprocessor, {name: forms[-1]})


@contextmanager
def _described_in(name: str) -> Iterator[None]:
    """Names the file whose settings make no model."""
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} does not describe a CLIP: {error}") from error


def _width(settings: Json, name: str, default: Any = None) -> Any:
    """Returns a width to divide by."""
    value = settings.get(name, default)
    if value == 0:
        raise ConfigError(f"`{name}` must be a positive int, got 0")
    return value


def _hf_activation(text: Json, vision: Json) -> str:
    for tower in (text, vision):
        _refuse_variants("tower", tower, {"layer_norm_eps": 1e-5, "attention_dropout": 0.0})
    names = {tower.get("hidden_act", "quick_gelu") for tower in (text, vision)}
    if len(names) > 1 or not names <= set(_HF_ACTIVATIONS):
        raise CheckpointError(
            f"expected one `hidden_act` of quick_gelu and gelu in both towers, got {sorted(names)}"
        )
    return _HF_ACTIVATIONS[names.pop()]


def _refuse_variants(where: str, settings: Json, plain: Json) -> None:
    for name, value in plain.items():
        found = settings.get(name, value)
        if found != value and found not in (None, {}, []):
            raise CheckpointError(
                f"{where} has {name} {found!r}, which is not supported; expected {value!r}"
            )
