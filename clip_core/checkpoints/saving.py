"""Writes a model directory that open_clip loads, and for ViTs Hugging Face too."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from clip_core.checkpoints.descriptions.hugging_face import HF_CONFIG
from clip_core.checkpoints.descriptions.image_processor import PREPROCESSOR
from clip_core.checkpoints.descriptions.open_clip import OPEN_CLIP_CONFIG, TOKENIZER_NAMES
from clip_core.checkpoints.renaming import to_hugging_face
from clip_core.checkpoints.vocabulary import OPENAI_VOCAB_SIZE, write_vocabulary
from clip_core.config import ClipConfig, TextConfig, VitConfig
from clip_core.model import Clip
from clip_core.tokenizer import Tokenizer

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def save_model_directory(
    directory: Path, model: Clip, tokenizer: Tokenizer, *, dtype: str = "fp32"
) -> None:
    """Writes configuration, weights and vocabulary.

    Args:
        directory: made if it is not there; files of the same names are replaced.
        dtype: `fp16` or `fp32`, of all floating-point weights.

    Raises:
        ValueError: if `dtype` is neither, or the tokenizer is not the model's.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if tokenizer.vocab_size != model.config.text.vocab_size:
        raise ValueError(
            f"expected a tokenizer of {model.config.text.vocab_size} ids, got "
            f"{tokenizer.vocab_size}; pass the one the model was trained with"
        )
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: _stored(tensor, DTYPES[dtype]) for name, tensor in model.state_dict().items()}
    _save_tensors(state, directory / "open_clip_model.safetensors")
    _save_json(open_clip_config(model.config), directory / OPEN_CLIP_CONFIG)
    write_vocabulary(directory, tokenizer)
    if has_hugging_face_form(model.config):
        _save_tensors(to_hugging_face(state), directory / "model.safetensors")
        _save_json(hugging_face_config(model.config, tokenizer), directory / HF_CONFIG)
        _save_json(_hf_preprocessor(model.config), directory / PREPROCESSOR)


def has_hugging_face_form(config: ClipConfig) -> bool:
    """Tells whether Hugging Face can have this model: no ResNet, and no padded images."""
    return isinstance(config.vision, VitConfig) and config.resizing.mode != "longest"


def open_clip_config(config: ClipConfig) -> dict[str, Any]:
    """Returns the content of open_clip_config.json."""
    vision, text = config.vision, config.text
    vision_cfg: dict[str, Any] = {"image_size": vision.image_size, "width": vision.width}
    if isinstance(vision, VitConfig):
        vision_cfg |= {
            "layers": vision.layers,
            "patch_size": vision.patch_size,
            "head_width": vision.width // vision.heads,
            "mlp_ratio": vision.mlp_ratio,
        }
    else:
        head_width = vision.width * 32 // vision.heads
        vision_cfg |= {"layers": list(vision.layers), "patch_size": None, "head_width": head_width}
    text_cfg: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
        "mlp_ratio": text.mlp_ratio,
    }
    if text.vocab_size != OPENAI_VOCAB_SIZE:
        # Any name makes open_clip read the vocabulary beside this file instead of its own.
        text_cfg["hf_tokenizer_name"] = TOKENIZER_NAMES[0]
    model_cfg = {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.activation == "quick_gelu",
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": _open_clip_preprocess(config)}


def hugging_face_config(config: ClipConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of config.json, for a ViT."""
    vision, text = config.vision, config.text
    if not isinstance(vision, VitConfig):
        raise ValueError("Hugging Face has no ResNet CLIP; save it for open_clip")
    ids = {
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.end_id,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            **_hf_tower(text, config),
            **ids,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            **_hf_tower(vision, config),
        },
    }


def _open_clip_preprocess(config: ClipConfig) -> dict[str, Any]:
    resizing = config.resizing
    found = {
        "mean": list(config.mean),
        "std": list(config.std),
        "interpolation": resizing.interpolation,
        "resize_mode": resizing.mode,
    }
    return found | ({"fill_color": resizing.fill} if resizing.mode == "longest" else {})


def _hf_tower(tower: VitConfig | TextConfig, config: ClipConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": round(tower.width * tower.mlp_ratio),
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": config.activation,
        "projection_dim": config.embed_dim,
    }


def _hf_preprocessor(config: ClipConfig) -> dict[str, Any]:
    size, resizing = config.vision.image_size, config.resizing
    square = {"height": size, "width": size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": square if resizing.mode == "squash" else {"shortest_edge": size},
        "crop_size": square,
        "resample": 3 if resizing.interpolation == "bicubic" else 2,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "do_convert_rgb": True,
    }


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.touch()
    mode = partial.stat().st_mode  # of a new file, which the umask decides
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial,
              metadata={"format": "pt"})  # fmt: skip
    with suppress(OSError):  # a mount that takes no modes takes the file all the same
        partial.chmod(mode)  # safetensors makes it readable by its owner alone
    partial.replace(path)


def _save_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
