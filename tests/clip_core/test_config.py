import pytest
import torch

from clip_core.config import ClipConfig, ConfigError, ResNetConfig, TextConfig, VitConfig
from clip_core.model import Clip
from clip_core.variants import OPEN_CLIP, PUBLISHED, VARIANTS

# Radford et al. 2021 and its release: parameters in all, and of the image tower.
PARAMETERS = {
    "RN50": (102_007_137, 38_316_896),
    "RN101": (119_688_033, 56_259_936),
    "RN50x4": (178_300_601, 87_137_080),
    "RN50x16": (290_979_217, 167_328_912),
    "RN50x64": (623_258_305, 420_380_352),
    "ViT-B/32": (151_277_313, 87_849_216),
    "ViT-B/16": (149_620_737, 86_192_640),
    "ViT-L/14": (427_616_513, 303_966_208),
    "ViT-L/14@336px": (427_944_193, 304_293_888),
}
KEYS = {"RN50": 489, "RN101": 795, "RN50x4": 669, "RN50x16": 921, "RN50x64": 1353,
        "ViT-B/32": 302, "ViT-B/16": 302, "ViT-L/14": 446, "ViT-L/14@336px": 446}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_variant_has_the_published_parameters_and_keys(name):
    with torch.device("meta"):
        clip = Clip(PUBLISHED[name])
    total = sum(parameter.numel() for parameter in clip.parameters())
    visual = sum(parameter.numel() for parameter in clip.visual.parameters())
    assert (total, visual) == PARAMETERS[name]
    assert len(clip.state_dict()) == KEYS[name]


# Millions of parameters, as open_clip's own table of models gives them.
OPEN_CLIP_PARAMETERS = {
    "ViT-B-32-256": 151.29,
    "ViT-B-16-plus-240": 208.38,
    "ViT-L-14-336": 427.94,
    "ViT-H-14": 986.11,
    "ViT-g-14": 1366.68,
    "ViT-bigG-14": 2539.57,
}


@pytest.mark.parametrize("name", OPEN_CLIP_PARAMETERS)
def test_open_clip_variant_has_its_parameters(name):
    with torch.device("meta"):
        clip = Clip(OPEN_CLIP[name])
    millions = sum(parameter.numel() for parameter in clip.parameters()) / 1e6
    assert round(millions, 2) == OPEN_CLIP_PARAMETERS[name]


def test_open_clip_names_tell_the_activation():
    assert OPEN_CLIP["ViT-B-32"].activation == "gelu"
    assert OPEN_CLIP["ViT-B-32-quickgelu"] == PUBLISHED["ViT-B/32"]


@pytest.mark.parametrize("name", ["tiny-rn", "tiny-vit"])
def test_tiny_variants_are_in_the_table(name):
    assert VARIANTS[name].embed_dim == 128


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: VitConfig(32, 64, 64, 1, 1),
            "`patch_size` must be at most `image_size` 32, got 64",
        ),
        (lambda: VitConfig(32, 8, 0, 1, 1), "`width` must be a positive int, got 0"),
        (lambda: VitConfig(32, 8, 64, 1, 3), "vision width 64 is not divisible by its 3 heads"),
        (lambda: ResNetConfig(60, 16, (1, 1, 1, 1), 8), "multiple of 32, got 60"),
        (lambda: ResNetConfig(64, 16, (1, 1, 1), 8), r"four positive ints, got \(1, 1, 1\)"),
        (lambda: TextConfig(77, 512, 64, 2, 5), "text width 64 is not divisible by its 5 heads"),
    ],
)
def test_impossible_tower_is_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_unknown_activation_is_refused():
    tower, text = VitConfig(32, 8, 64, 1, 1), TextConfig(8, 512, 64, 1, 1)
    with pytest.raises(ConfigError, match="one of quick_gelu, gelu, got 'gelu_new'"):
        ClipConfig(8, tower, text, activation="gelu_new")
    with pytest.raises(ConfigError, match="`std` positive"):
        ClipConfig(8, tower, text, std=(0.0, 1.0, 1.0))
