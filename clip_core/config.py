"""Sizes of a CLIP model: what is needed to build one, checked when it is written down."""

from __future__ import annotations

from dataclasses import dataclass

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

HEAD_WIDTH = 64
ACTIVATIONS = ("quick_gelu", "gelu")
RESIZE_MODES = ("shortest", "squash", "longest")
INTERPOLATIONS = ("bicubic", "bilinear")


class ConfigError(ValueError):
    """A model description that cannot be built: names the field, the value and what is allowed."""


@dataclass(frozen=True)
class VitConfig:
    """Vision transformer: square images cut into `patch_size` squares.

    `mlp_ratio` is the width inside a block's two linear maps over the width outside.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        _check_positive(self, "image_size", "patch_size", "width", "layers", "heads")
        _check_heads("vision", self.width, self.heads)
        if self.patch_size > self.image_size:
            raise ConfigError(
                f"`patch_size` must be at most `image_size` {self.image_size}, "
                f"got {self.patch_size}"
            )

    @property
    def grid(self) -> int:
        """Patches along one side; a remainder at the border is dropped, as the original does."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class ResNetConfig:
    """ModifiedResNet: three-convolution stem, anti-aliased strides, attention pooling.

    `layers` counts the bottlenecks of the four stages; `heads` those of the attention pool, whose
    width is 32 times `width`.
    """

    image_size: int
    width: int
    layers: tuple[int, ...]
    heads: int

    def __post_init__(self) -> None:
        _check_positive(self, "image_size", "width", "heads")
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ConfigError(f"`layers` must be four positive ints, got {self.layers!r}")
        if self.image_size % 32:
            raise ConfigError(
                f"`image_size` of a ResNet must be a multiple of 32, got {self.image_size}"
            )
        _check_heads("attention pool", self.width * 32, self.heads)

    @property
    def grid(self) -> int:
        """Positions along one side of the last feature map."""
        return self.image_size // 32


@dataclass(frozen=True)
class TextConfig:
    """Causal text transformer."""

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        _check_positive(self, "context_length", "vocab_size", "width", "layers", "heads")
        _check_heads("text", self.width, self.heads)


@dataclass(frozen=True)
class Resizing:
    """How an image becomes a square, as open_clip's `preprocess_cfg` says it.

    Attributes:
        mode: `shortest` makes the shorter side the square's and cuts the middle out; `squash`
            makes both sides the square's; `longest` makes the longer one the square's and pads.
        interpolation: `bicubic` or `bilinear`.
        fill: what `longest` pads with, 0 to 255, in every band of the image's own mode.
    """

    mode: str = RESIZE_MODES[0]
    interpolation: str = INTERPOLATIONS[0]
    fill: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("resize_mode", self.mode, RESIZE_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise ConfigError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")
        if not isinstance(self.fill, int) or not 0 <= self.fill <= 255:
            raise ConfigError(f"`fill_color` must be an int from 0 to 255, got {self.fill!r}")


@dataclass(frozen=True)
class ClipConfig:
    """Both towers, the joint width, and what a state dict does not tell.

    Attributes:
        embed_dim: length of an embedding.
        activation: `quick_gelu` (x * sigmoid(1.702 x), all OpenAI weights) or `gelu` (exact, erf).
        mean, std: per-channel statistics of pixels in [0, 1].
        resizing: how images become squares.
    """

    embed_dim: int
    vision: VitConfig | ResNetConfig
    text: TextConfig
    activation: str = "quick_gelu"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    resizing: Resizing = Resizing()

    def __post_init__(self) -> None:
        _check_positive(self, "embed_dim")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"`mean` and `std` must be three numbers each and `std` positive, "
                f"got {self.mean!r} and {self.std!r}"
            )


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"`{name}` must be a positive int, got {value!r}")


def _check_heads(tower: str, width: int, heads: int) -> None:
    if width % heads:
        raise ConfigError(f"{tower} width {width} is not divisible by its {heads} heads")
