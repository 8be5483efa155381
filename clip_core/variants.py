"""The named architectures: the nine published ones, and what open_clip built on their design.

Sources: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision", tables 19 and 20; Cherti et al. 2022, "Reproducible scaling laws for contrastive
language-image learning" (the larger ViTs), and the weights released with both.
"""

from __future__ import annotations

from dataclasses import replace

from clip_core.config import HEAD_WIDTH, ClipConfig, ResNetConfig, TextConfig, VitConfig


def _text(
    width: int, vocab_size: int = 49408, context_length: int = 77, layers: int = 12
) -> TextConfig:
    return TextConfig(context_length, vocab_size, width, layers, width // HEAD_WIDTH)


def _vit(
    embed_dim: int, size: int, patch: int, width: int, layers: int, text: TextConfig
) -> ClipConfig:
    return ClipConfig(embed_dim, VitConfig(size, patch, width, layers, width // HEAD_WIDTH), text)


def _resnet(
    embed_dim: int, size: int, width: int, layers: tuple[int, ...], text: TextConfig
) -> ClipConfig:
    return ClipConfig(embed_dim, ResNetConfig(size, width, layers, width * 32 // HEAD_WIDTH), text)


PUBLISHED = {
    "RN50": _resnet(1024, 224, 64, (3, 4, 6, 3), _text(512)),
    "RN101": _resnet(512, 224, 64, (3, 4, 23, 3), _text(512)),
    "RN50x4": _resnet(640, 288, 80, (4, 6, 10, 6), _text(640)),
    "RN50x16": _resnet(768, 384, 96, (6, 8, 18, 8), _text(768)),
    "RN50x64": _resnet(1024, 448, 128, (3, 15, 36, 10), _text(1024)),
    "ViT-B/32": _vit(512, 224, 32, 768, 12, _text(512)),
    "ViT-B/16": _vit(512, 224, 16, 768, 12, _text(512)),
    "ViT-L/14": _vit(768, 224, 14, 1024, 24, _text(768)),
    "ViT-L/14@336px": _vit(768, 336, 14, 1024, 24, _text(768)),
}


def _open_clip_vit(
    embed_dim: int,
    vision: VitConfig,
    text_width: int,
    text_layers: int = 12,
) -> ClipConfig:
    return ClipConfig(embed_dim, vision, _text(text_width, layers=text_layers), "gelu")


def _with_gelu(name: str, image_size: int | None = None) -> ClipConfig:
    config = replace(PUBLISHED[name], activation="gelu")
    if image_size is None:
        return config
    return replace(config, vision=replace(config.vision, image_size=image_size))


# open_clip's names. Its plain names mean exact GELU; heads of the three largest are not 64 wide.
# A ResNet's plain name is OpenAI's too, which means QuickGELU (in the text tower).
_GELU = {
    "ViT-B-32": _with_gelu("ViT-B/32"),
    "ViT-B-32-256": _with_gelu("ViT-B/32", 256),
    "ViT-B-16": _with_gelu("ViT-B/16"),
    "ViT-B-16-plus-240": _open_clip_vit(640, VitConfig(240, 16, 896, 12, 14), 640),
    "ViT-L-14": _with_gelu("ViT-L/14"),
    "ViT-L-14-336": _with_gelu("ViT-L/14@336px"),
    "ViT-H-14": _open_clip_vit(1024, VitConfig(224, 14, 1280, 32, 16), 1024, 24),
    "ViT-g-14": _open_clip_vit(1024, VitConfig(224, 14, 1408, 40, 16, 4.3637), 1024, 24),
    "ViT-bigG-14": _open_clip_vit(1280, VitConfig(224, 14, 1664, 48, 16, 4.9231), 1280, 32),
}
OPEN_CLIP = _GELU | {
    f"{name}-quickgelu": replace(_GELU[name], activation="quick_gelu")
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14")
}
_RESNETS = [name for name, config in PUBLISHED.items() if isinstance(config.vision, ResNetConfig)]
OPEN_CLIP |= {f"{name}-quickgelu": PUBLISHED[name] for name in _RESNETS}

# Small enough for a laptop's processor: `tiny-rn` is the shape of the bundled model.
_TINY_TEXT = _text(128, vocab_size=770, context_length=32, layers=4)
SMALL = {
    "tiny-rn": _resnet(128, 64, 16, (1, 1, 1, 1), _TINY_TEXT),
    "tiny-vit": _vit(128, 64, 8, 128, 4, _TINY_TEXT),
}

VARIANTS = PUBLISHED | OPEN_CLIP | SMALL
# The activation that a name implies: that of the family whose name it is, if it is of one only.
ACTIVATION_OF = {
    name: config.activation
    for name, config in (PUBLISHED | OPEN_CLIP).items()
    if name not in _RESNETS
}
