"""What loaders of training data make of an encoded image: told by its content, not by its name."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from pipelines.images.decode import FORMATS, DecodeLimits
from pipelines.records import RowFault
from schemas.rejects import Reason

# Endings that open_clip's loader takes; it drops a sample of any other without a word.
LOADED = ("jpg", "png", "webp")
_SIGNATURES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def ending_of(data: bytes) -> str | None:
    """Returns `jpg`, `png` or `webp`; None of an image of another format."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((ending for begin, ending in _SIGNATURES if data.startswith(begin)), None)


def as_png(data: bytes) -> bytes:
    """Encodes the first frame of an image anew, without loss of what eight bits hold.

    Raises:
        RowFault: `too_many_pixels` or `decode_failed`.
    """
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            if image.width * image.height > DecodeLimits().max_pixels:
                raise RowFault("decode", Reason.TOO_MANY_PIXELS)
            found = image if image.mode in _PNG_MODES else image.convert("RGB")
            buffer = io.BytesIO()
            found.save(buffer, "PNG")
            return buffer.getvalue()
    except RowFault:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise what they like
        raise RowFault("decode", Reason.DECODE_FAILED, type(error).__name__) from error
