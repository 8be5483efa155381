"""Turns images into the pixels CLIP was trained on, bit-exact to the original's order.

Resize (bicubic, in the image's own mode), centre crop, convert to RGB, scale, standardise.
The order matters: palette and 1-bit images are resized by nearest neighbour, images with alpha
premultiplied, CMYK as CMYK; EXIF orientation and colour profiles are ignored. Loaders that convert
to RGB first give other pixels for all of those; the policies beside `openai` do as they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from clip_core.config import OPENAI_MEAN, OPENAI_STD, Resizing


def resized_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Returns (width, height) once the shorter side is `size`; the longer one is cut to an int."""
    short, long = min(width, height), max(width, height)
    long_resized = int(size * long / short)
    return (size, long_resized) if width <= height else (long_resized, size)


POLICIES = ("openai", "rgb_first", "hugging_face")
RESAMPLINGS = ("exact", "near", "fast")
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of one model: its input size and channel statistics.

    Attributes:
        size: side of the square input, pixels.
        mean, std: per channel, for values in [0, 1].
        policy: `openai` converts to RGB last, as the original and open_clip; `rgb_first` before
            resizing, as DataComp's scores were made: equal for RGB images. `hugging_face` is what
            `CLIPImageProcessorPil` of transformers 5.24 does: RGB first, transparency laid on
            white, and a crop whose half pixels are cut instead of rounded to even.
        resampling: `exact` is Pillow's, as the original; `near` is torch's kernel for uint8;
            `fast` also lets the JPEG decoder halve images that are far too large. The last two act
            on RGB images only; `python -m bench.decoding` measures how far they are off.
        resizing: how an image becomes a square.

    Raises:
        ValueError: if there is no such policy or resampling.
    """

    size: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    policy: str = POLICIES[0]
    resampling: str = RESAMPLINGS[0]
    resizing: Resizing = Resizing()

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
        kernel = self.resizing.interpolation
        kernel = kernel if self.resampling == "exact" else f"{kernel} ({self.resampling})"
        mode = "" if self.resizing.mode == "shortest" else f" {self.resizing.mode}"
        mode += f" fill {self.resizing.fill}" if self.resizing.mode == "longest" else ""
        return f"{order} {kernel}{mode} {self.size} mean {self.mean} std {self.std}"

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) of a resized image, before it is cropped or padded."""
        if self.resizing.mode == "squash":
            return self.size, self.size
        if self.resizing.mode == "longest":
            ratio = max(width, height) / self.size
            # open_clip fails where a side would round to 0.
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        return resized_size(width, height, self.size)

    def to_pixels(
        self, image: Image.Image, original_size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Resizes, crops or pads, and converts an image.

        Args:
            image: any mode Pillow can convert to RGB.
            original_size: (width, height) of an image that a JPEG decoder may have halved.

        Returns:
            [3, size, size] uint8, contiguous.
        """
        resized = self.resized_size(*(original_size or image.size))
        if self.resampling == "fast":  # does nothing where the format cannot, or it is read already
            image.draft(None, resized)
        if self.policy != "openai":
            image = _rgb(image, on_white=self.policy == "hugging_face")
        if image.size != resized:
            image = self._resized(image, resized)
        square = self._square(image).convert("RGB")
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Standardises pixels [..., 3, height, width] uint8; returns float32 of the same shape."""
        mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (self.mean, self.std))
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std

    def _resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        if self.resampling != "exact" and image.mode == "RGB":
            return _resized_by_torch(image, size, self.resizing.interpolation)
        return image.resize(size, _FILTERS[self.resizing.interpolation])

    def _square(self, image: Image.Image) -> Image.Image:
        """Cuts the middle out of an image, or pads it."""
        width, height = image.size
        if self.resizing.mode == "longest":
            image = _padded(image, self.size - width, self.size - height, self.resizing.fill)
            width, height = image.size
        if self.policy == "hugging_face":
            left, top = (width - self.size) // 2, (height - self.size) // 2
        else:
            # Python rounds half to even, and so did the original: an offset of 0.5 is 0, 1.5 is 2.
            left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


def _rgb(image: Image.Image, *, on_white: bool) -> Image.Image:
    """Converts to RGB; transparency is dropped, or laid on white."""
    if on_white and ("A" in image.getbands() or image.info.get("transparency") is not None):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _padded(image: Image.Image, across: int, down: int, fill: int) -> Image.Image:
    """Adds columns and rows on both sides, an odd one at the right or the bottom."""
    border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
    bands = len(image.getbands())
    padded = ImageOps.expand(image, border, (fill,) * bands if bands > 1 else fill)
    if image.mode == "P":  # as torchvision, whose fill is an index; Pillow's may be a new colour
        padded.putpalette(image.getpalette() or [])
    return padded


def _resized_by_torch(image: Image.Image, size: tuple[int, int], kernel: str) -> Image.Image:
    """Resizes an RGB image to (width, height) with torch's antialiased kernel."""
    import torch  # here, as processes that decode exactly have no use for it
    from torch.nn.functional import interpolate

    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # [1, 3, height, width]
    found = interpolate(values, size[::-1], mode=kernel, antialias=True)[0]
    return Image.fromarray(found.permute(1, 2, 0).contiguous().numpy())
