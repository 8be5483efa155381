"""Decodes images. Any bytes give pixels or a named fault."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from clip_core.preprocess import Preprocess
from pipelines.images.foreign_formats import HEIC, ends_inside_a_box, foreign_format
from pipelines.records import RowFault
from pipelines.storage.redaction import ADDRESS, MASK
from schemas.rejects import Reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_ORIENTATION = 0x0112  # the tag of EXIF
# What makes an image upright that was stored with this orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
    apply_orientation: bool = False


def limits_of(options: Mapping[str, object]) -> DecodeLimits:
    """Returns what the options, or the fingerprint, of a run say about decoding."""
    return DecodeLimits(
        reject_deep=options.get("deep_images") == "reject",
        apply_orientation=options.get("exif_orientation") == "apply",
    )


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
        with _opened(data) as opened:
            width, height = opened.size
            _check_size(width, height, preprocesses, limits)
            image = _upright(opened) if limits.apply_orientation else opened
            width, height = image.size
            if limits.reject_deep and image.mode.startswith(_DEEP_MODES):
                raise _fault(Reason.DEEP_PIXELS, f"pixels of mode {image.mode} exceed 8 bits")
            # The largest first, as a JPEG decoder may halve the image for the first one.
            by_size = sorted(set(preprocesses), key=partial(_scale, image.size), reverse=True)
            pixels = {p: p.to_pixels(image, (width, height)) for p in by_size}
            return DecodedImage(tuple(pixels[p] for p in preprocesses), width, height)
    except RowFault:
        raise
    except UnidentifiedImageError as error:
        detail = f"{len(data)} bytes, not recognised as any of {FORMATS}"
        raise _fault(Reason.NOT_AN_IMAGE, detail) from error
    # The warning is raised where a process has made errors of warnings.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _fault(Reason.TOO_MANY_PIXELS, str(error)) from error
    # The boundary where arbitrary bytes meet native decoders, which raise what they like:
    # ValueError, SyntaxError, NotImplementedError, struct.error, MemoryError, ... (measured).
    except Exception as error:  # noqa: BLE001
        raise _undecodable(error, data) from error


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


def _opened(data: bytes) -> Image.Image:
    """Opens an image of a format that is decoded here.

    Raises:
        RowFault: `unsupported_format`, with the name of the format that it is.
        Exception: whatever Pillow raises.
    """
    formats: tuple[str, ...] = FORMATS
    if data[4:8] == b"ftyp" and foreign_format(data, ()) == HEIC:  # which AVIF's decoder would try
        formats = _heif_formats()
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        name = foreign_format(data, FORMATS)
        if name is None:
            raise
        if name in FORMATS:  # by its beginning, and yet it cannot be opened
            raise _undecodable(error, data) from error
        remedy = "; install `clip-beam[heif]`" if name == HEIC and not formats else ""
        detail = f"begins like {name}; expected {FORMATS}{remedy}"
        raise _fault(Reason.UNSUPPORTED_FORMAT, detail) from error


@lru_cache(maxsize=1)
def _heif_formats() -> tuple[str, ...]:
    """Returns the name of the format HEIC is decoded as; none where the extra is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)


def _upright(image: Image.Image) -> Image.Image:
    """Returns an image as its EXIF says it is looked at; as it is stored where that says nothing
    that makes sense."""
    if image.format != "JPEG":  # whose EXIF comes first, so that it may still be read in half size
        image.load()  # after which TIFF and HEIF are upright by themselves
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - what damaged EXIF makes Pillow raise; the pixels are there
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _undecodable(error: Exception, data: bytes) -> RowFault:
    cut = isinstance(error, OSError | EOFError | struct.error) and (
        "truncated" in str(error).lower() or isinstance(error, EOFError)
    )
    is_cut = cut or ends_inside_a_box(data)
    reason = Reason.TRUNCATED_IMAGE if is_cut else Reason.DECODE_FAILED
    return _fault(reason, f"{type(error).__name__}: {error}")


def _fault(reason: Reason, detail: str) -> RowFault:
    # Some messages hold the address of an object, and a rerun would then write another detail.
    return RowFault("decode", reason, ADDRESS.sub(MASK, detail))
