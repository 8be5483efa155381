"""Writes the model directories whose embeddings by open_clip and transformers are golden."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from formula import CONTEXT_LENGTH, MODELS, VOCAB_SIZE, weights_of

SIZE = 24  # of the golden pixels: small, with odd margins
CASES = (
    ("squash", "bicubic", 0),
    ("squash", "bilinear", 0),
    ("shortest", "bilinear", 0),
    ("longest", "bicubic", 0),
    ("longest", "bilinear", 127),
)
PHOTO, CAPTIONS = "drawn_rgb.png", ("a red circle", "a photo of a dog, in the snow")
_NAME = "formula-vit"
_WIDTH, _HEADS = MODELS[_NAME].text_width, MODELS[_NAME].text_width // 64
_STATISTICS = [0.5, 0.5, 0.5], [0.25, 0.5, 0.5]


@lru_cache(maxsize=1)
def formula_weights() -> dict[str, np.ndarray]:
    """Returns the weights, float32, by the names of the released state dicts."""
    return {name: value.astype(np.float32) for name, value in weights_of(MODELS[_NAME]).items()}


def write_open_clip(directory: Path) -> None:
    """Writes a directory of open_clip's that squashes images, bilinear, and has exact GELU."""
    sizes, (mean, std) = MODELS[_NAME], _STATISTICS
    vision = {"image_size": sizes.image_size, "layers": sizes.vision_layers,
              "width": sizes.vision_width, "patch_size": sizes.patch}  # fmt: skip
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": VOCAB_SIZE, "width": _WIDTH,
            "heads": _HEADS, "layers": sizes.text_layers}  # fmt: skip
    preprocess = {"mean": mean, "std": std, "interpolation": "bilinear", "resize_mode": "squash"}
    model = {"embed_dim": sizes.embed_dim, "vision_cfg": vision, "text_cfg": text}
    _write(directory / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocess})
    save_file(formula_weights(), directory / "open_clip_model.safetensors")


def write_hugging_face(directory: Path) -> None:
    """Writes a directory as transformers 5 saves it: processor_config.json says the pixels."""
    sizes, (mean, std) = MODELS[_NAME], _STATISTICS
    vision = {"image_size": sizes.image_size, "patch_size": sizes.patch,
              **_tower(sizes.vision_width, sizes.vision_layers)}  # fmt: skip
    text = {"max_position_embeddings": CONTEXT_LENGTH, "vocab_size": VOCAB_SIZE,
            "eos_token_id": VOCAB_SIZE - 1, **_tower(_WIDTH, sizes.text_layers)}  # fmt: skip
    config = {"architectures": ["CLIPModel"], "model_type": "clip",
              "projection_dim": sizes.embed_dim, "text_config": text,
              "vision_config": vision}  # fmt: skip
    square = {"height": sizes.image_size, "width": sizes.image_size}
    processor = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True,
                 "do_convert_rgb": True, "do_normalize": True, "do_rescale": True,
                 "do_resize": True, "resample": 3, "rescale_factor": 1 / 255,
                 "size": {"shortest_edge": sizes.image_size}, "crop_size": square,
                 "image_mean": mean, "image_std": std}  # fmt: skip
    _write(directory / "config.json", config)
    whole = {"image_processor": processor, "processor_class": "CLIPProcessor"}
    _write(directory / "processor_config.json", whole)
    save_file(_hugging_face_weights(), directory / "model.safetensors", metadata={"format": "pt"})


def _hugging_face_weights() -> dict[str, np.ndarray]:
    """Renames the weights, by rules of text; those of the queries, keys and values are cut."""
    found: dict[str, np.ndarray] = {}
    for name, value in formula_weights().items():
        parts = {"": value}
        if ".in_proj_" in name:
            parts = dict(zip("qkv", np.split(value, 3), strict=True))
        for letter, part in parts.items():
            new = _hugging_face_name(name).replace("*", letter)
            transposed = new in ("visual_projection.weight", "text_projection.weight")
            found[new] = np.array(part.T if transposed else part, order="C")
    return found


def _hugging_face_name(name: str) -> str:
    if name in ("positional_embedding", "text_projection"):
        other = {"positional_embedding": "text_model.embeddings.position_embedding.weight"}
        return other.get(name, "text_projection.weight")
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name


_RENAMED = (
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1", "vision_model.embeddings.patch_embedding"),
    ("visual.ln_pre", "vision_model.pre_layrnorm"),
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("visual.proj", "visual_projection.weight"),
    ("transformer.resblocks.", "text_model.encoder.layers."),
    ("token_embedding", "text_model.embeddings.token_embedding"),
    ("ln_final", "text_model.final_layer_norm"),
    ("attn.in_proj_", "self_attn.*_proj."),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def _tower(width: int, layers: int) -> dict[str, object]:
    return {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": width // 64, "hidden_act": "quick_gelu"}  # fmt: skip


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
