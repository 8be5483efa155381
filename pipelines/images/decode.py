"""Decodes images. Any bytes give pixels or a named fault."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from clip_core.preprocess import Preprocess
from pipelines.records import RowFault
from pipelines.storage.redaction import ADDRESS, MASK
from schemas.rejects import Reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_SIGNATURE_BYTES = 16  # as many as Pillow shows a plugin to recognise its format by
_DEEP_MODES = ("I", "F")  # and I;16, I;16B, ...; Pillow itself scales colours of 16 bits


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds that are checked before the work they bound.

    Attributes:
        max_pixels: width * height of the image as stored; Pillow's own warning level.
        max_resized_pixels: the same once the shorter side is resized: an image of 1 x 5000 pixels
            would otherwise take a gigabyte.
        max_seconds, max_memory_bytes: for decoding one image, on top of what the process holds.
            Enforced only where images are decoded in processes of their own, since a thread cannot
            be stopped inside a native decoder.
        reject_deep: whether greyscale images of 16 or 32 bits or floats are refused. Pillow and
            so the original clip them at 255: what is brighter becomes white.
    """

    max_pixels: int = 89_478_485
    max_resized_pixels: int = 64_000_000
    max_seconds: float = 30.0
    max_memory_bytes: int = 2 << 30
    reject_deep: bool = False


@dataclass(frozen=True)
class DecodedImage:
    """The pixels for each preprocessing, [3, size, size] uint8, and the size before resizing."""

    pixels: tuple[np.ndarray, ...]
    original_width: int
    original_height: int


ImageDecoder = Callable[[bytes, Sequence[Preprocess], DecodeLimits], DecodedImage]


def decode_image(
    data: bytes, preprocesses: Sequence[Preprocess], limits: DecodeLimits
) -> DecodedImage:
    """Decodes the first frame of an image, once, and preprocesses it for each model.

    Raises:
        RowFault: `not_an_image`, `unsupported_format`, `truncated_image`, `too_many_pixels`,
            `extreme_aspect`, `deep_pixels`, `decode_failed`.
        RuntimeError: if a library has told Pillow to accept cut images.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "expected PIL.ImageFile.LOAD_TRUNCATED_IMAGES to be False, some library has set it: "
            "cut images would be scored as if they were whole"
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_size(width, height, preprocesses, limits)
            if limits.reject_deep and image.mode.startswith(_DEEP_MODES):
                raise _fault(Reason.DEEP_PIXELS, f"pixels of mode {image.mode} exceed 8 bits")
            # The largest first, as a JPEG decoder may halve the image for the first one.
            by_size = sorted(set(preprocesses), key=partial(_scale, image.size), reverse=True)
            pixels = {p: p.to_pixels(image, (width, height)) for p in by_size}
            return DecodedImage(tuple(pixels[p] for p in preprocesses), width, height)
    except RowFault:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    # The warning is raised where a process has made errors of warnings.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _fault(Reason.TOO_MANY_PIXELS, str(error)) from error
    # The boundary where arbitrary bytes meet native decoders, which raise what they like:
    # ValueError, SyntaxError, NotImplementedError, struct.error, MemoryError, ... (measured).
    except Exception as error:  # noqa: BLE001
        raise _undecodable(error) from error


def _scale(size: tuple[int, int], preprocess: Preprocess) -> float:
    """Returns the larger scale, across or down, at which an image of (width, height) is resized."""
    return max(new / old for new, old in zip(preprocess.resized_size(*size), size, strict=True))


def _check_size(
    width: int, height: int, preprocesses: Sequence[Preprocess], limits: DecodeLimits
) -> None:
    if width * height > limits.max_pixels:
        raise _fault(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels")
    sizes = (preprocess.resized_size(width, height) for preprocess in preprocesses)
    resized_width, resized_height = max(sizes, key=lambda size: size[0] * size[1])
    if resized_width * resized_height > limits.max_resized_pixels:
        raise _fault(
            Reason.EXTREME_ASPECT,
            f"{width} x {height} pixels would be resized to {resized_width} x {resized_height}",
        )


def _unidentified(data: bytes) -> RowFault:
    """Tells an image of a format that is not decoded here from what is no image.

    By its first bytes alone: no decoder outside the allowlist gets to parse it.
    """
    Image.init()
    signature = data[:_SIGNATURE_BYTES].ljust(_SIGNATURE_BYTES, b"\0")
    for name, (_, accept) in Image.OPEN.items():
        if name not in FORMATS and accept and accept(signature):
            return _fault(Reason.UNSUPPORTED_FORMAT, f"begins like {name}; expected {FORMATS}")
    return _fault(Reason.NOT_AN_IMAGE, f"{len(data)} bytes, not recognised as any of {FORMATS}")


def _undecodable(error: Exception) -> RowFault:
    cut = isinstance(error, OSError | EOFError | struct.error) and (
        "truncated" in str(error).lower() or isinstance(error, EOFError)
    )
    reason = Reason.TRUNCATED_IMAGE if cut else Reason.DECODE_FAILED
    return _fault(reason, f"{type(error).__name__}: {error}")


def _fault(reason: Reason, detail: str) -> RowFault:
    # Some messages hold the address of an object, and a rerun would then write another detail.
    return RowFault("decode", reason, ADDRESS.sub(MASK, detail))
