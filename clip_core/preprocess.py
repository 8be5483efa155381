"""Turns images into the pixels CLIP was trained on, bit-exact to the original's order.

Resize (bicubic, in the image's own mode), centre crop, convert to RGB, scale, standardise.
The order matters: palette and 1-bit images are resized by nearest neighbour, images with alpha
premultiplied, CMYK as CMYK; EXIF orientation and colour profiles are ignored. Loaders that convert
to RGB first give other pixels for all of those; the policy `rgb_first` does as they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from clip_core.config import OPENAI_MEAN, OPENAI_STD


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Returns (width, height) once the shorter side is `size`; the longer one is cut to an int."""
    short, long = min(width, height), max(width, height)
    long_resized = int(size * long / short)
    return (size, long_resized) if width <= height else (long_resized, size)


POLICIES = ("openai", "rgb_first")
RESAMPLINGS = ("exact", "near", "fast")


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of one model: its input size and channel statistics.

    Attributes:
        size: side of the square input, pixels.
        mean, std: per channel, for values in [0, 1].
        policy: `openai` converts to RGB last, as the original; `rgb_first` before resizing, as
            DataComp's scores and Hugging Face's processors were made. Equal for RGB images.
        resampling: `exact` is Pillow's, as the original; `near` is torch's kernel for uint8, which
            differs by at most a few grey levels; `fast` also lets the JPEG decoder halve images
            that are far too large. The last two act on RGB images only.

    Raises:
        ValueError: if there is no such policy or resampling.
    """

    size: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    policy: str = POLICIES[0]
    resampling: str = RESAMPLINGS[0]

    def __post_init__(self) -> None:
        if self.resampling not in RESAMPLINGS:
            raise ValueError(
                f"`resampling` must be one of {', '.join(RESAMPLINGS)}, got {self.resampling!r}"
            )
        if self.policy not in POLICIES:
            raise ValueError(
                f"`image_policy` must be one of {', '.join(POLICIES)}, got {self.policy!r}"
            )

    @property
    def identity(self) -> str:
        """Names everything that decides the pixels."""
        order = "openai-order" if self.policy == "openai" else self.policy
        bicubic = "bicubic" if self.resampling == "exact" else f"bicubic ({self.resampling})"
        return f"{order} {bicubic} {self.size} mean {self.mean} std {self.std}"

    def to_pixels(
        self, image: Image.Image, original_size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Resizes, crops and converts an image.

        Args:
            image: any mode Pillow can convert to RGB.
            original_size: (width, height) of an image that a JPEG decoder may have halved.

        Returns:
            [3, size, size] uint8, contiguous.
        """
        resized = resized_size(*(original_size or image.size), self.size)
        if self.resampling == "fast":  # does nothing where the format cannot, or it is read already
            image.draft(None, resized)
        if self.policy == "rgb_first":
            image = image.convert("RGB")
        if image.size != resized:
            if self.resampling != "exact" and image.mode == "RGB":
                return _resized_by_torch(image, resized, self.size)
            image = image.resize(resized, Image.Resampling.BICUBIC)
        left, top = _corner(resized, self.size)
        cropped = image.crop((left, top, left + self.size, top + self.size)).convert("RGB")
        return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1))

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Standardises pixels [..., 3, height, width] uint8; returns float32 of the same shape."""
        mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (self.mean, self.std))
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def _corner(resized: tuple[int, int], size: int) -> tuple[int, int]:
    """Returns left and top of the centre square of an image of (width, height)."""
    width, height = resized
    # Python rounds half to even, and so did the original: an offset of 0.5 is 0, 1.5 is 2.
    return round((width - size) / 2), round((height - size) / 2)


def _resized_by_torch(image: Image.Image, resized: tuple[int, int], size: int) -> np.ndarray:
    """Resizes an RGB image to (width, height) with torch's antialiased kernel, and crops it."""
    import torch  # here, as processes that decode exactly have no use for it
    from torch.nn.functional import interpolate

    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # [1, 3, height, width]
    found = interpolate(values, resized[::-1], mode="bicubic", antialias=True)[0]
    left, top = _corner(resized, size)
    return found[:, top : top + size, left : left + size].contiguous().numpy()
