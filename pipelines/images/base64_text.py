"""Images as base64 text, bare or in `data:` URIs: told from paths, and decoded."""

from __future__ import annotations

import binascii
import re
import string
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pipelines.images.fetch import MAX_IMAGE_BYTES

SHOWN_CHARS = 100  # of such a text, in the tables
# No key of an object store is longer, and no file's path is that begins as an image does.
MAX_KEY_CHARS = 1024
# The largest image with line breaks after 64 characters; a longer text is not decoded.
MAX_BASE64_CHARS = MAX_IMAGE_BYTES * 3 // 2
_HEAD_CHARS = 512  # a `data:` URI's media type and the first bytes of the image
_SIGNATURE_CHARS = 32
_ENDING_CHARS = 8
_DATA_URI = re.compile(rb"\s*data:([^,]*),", re.IGNORECASE)
_SPACES = string.whitespace.encode()
_STANDARD = bytes.maketrans(b"-_", b"+/")  # of the URL-safe alphabet
_ALPHABET = (string.ascii_letters + string.digits + "+/").encode()
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|BM.{4}\0{4}|.{4}ftyp",
    re.DOTALL,
)


class DamagedBase64Error(ValueError):
    """A text that should be an image's base64 and is not: says why."""


class Base64Image(NamedTuple):
    """An image given as text.

    Attributes:
        shown: how the text begins.
        data: the encoded image; None if the text is damaged or too long.
        damage: what is wrong with the text, if anything.
        is_too_long: whether that is its length.
    """

    shown: str
    data: bytes | None
    damage: str | None = None
    is_too_long: bool = False


def base64_image(text: str | bytes) -> Base64Image:
    """Decodes an image's text, whatever comes of it."""
    shown = _bytes(text[:SHOWN_CHARS]).decode("utf-8", "replace")
    if len(text) > MAX_BASE64_CHARS:
        most = f"the image's base64 text has more than {MAX_BASE64_CHARS} characters"
        return Base64Image(shown, None, most, is_too_long=True)
    try:
        return Base64Image(shown, decoded(text))
    except DamagedBase64Error as error:
        return Base64Image(shown, None, str(error))


def is_base64(text: str) -> bool:
    """Tells an image's text from a path or a URI, by how it begins and by its length.

    Every `data:` URI is one; a bare text if it begins as an image does, is longer than a path, and
    has no file's ending.
    """
    is_long = len(text) > MAX_KEY_CHARS and "." not in text[-_ENDING_CHARS:]
    if not is_long and ":" not in text:  # as most paths
        return False
    head = _bytes(text[:_HEAD_CHARS])
    return bool(_DATA_URI.match(head)) or (is_long and _begins_as_image(head))


def is_beginning(shown: str) -> bool:
    """Tells the first characters of an image's text, as tables have them, from a path or a URI."""
    head = _bytes(shown)
    return bool(_DATA_URI.match(head)) or (len(shown) == SHOWN_CHARS and _begins_as_image(head))


def may_be_long(head: bytes) -> bool:
    """Tells by its first 512 bytes whether a text may be as long as an image is."""
    uri = _DATA_URI.match(head)
    return _begins_as_image(head[uri.end() :] if uri else head)


def decoded(text: str | bytes) -> bytes:
    """Returns the bytes of base64 text or of a `data:` URI, in the standard or the URL-safe
    alphabet, padded or not, with white space or without.

    Raises:
        DamagedBase64Error: if it is neither.
    """
    data = _bytes(text)
    uri = _DATA_URI.match(data)
    if uri is not None:
        if not uri[1].lower().rstrip().endswith(b";base64"):
            raise DamagedBase64Error("expected a `data:` URI with `;base64`, got one without")
        data = data[uri.end() :]
        data = unquote_to_bytes(data) if b"%" in data else data
    data = data.translate(_STANDARD, _SPACES)
    body = data.rstrip(b"=")
    if body.translate(None, _ALPHABET) or len(data) - len(body) > 2:
        raise DamagedBase64Error("expected an image as base64 text, got characters beside it")
    if len(body) % 4 == 1:
        raise DamagedBase64Error("expected an image as base64 text, got one that is cut short")
    return binascii.a2b_base64(body + b"=" * (-len(body) % 4))


def _begins_as_image(head: bytes) -> bool:
    text = head.translate(_STANDARD, _SPACES)[:_SIGNATURE_CHARS]
    if len(text) < _SIGNATURE_CHARS or text.translate(None, _ALPHABET):
        return False
    return _SIGNATURE.match(binascii.a2b_base64(text)) is not None


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "replace") if isinstance(text, str) else text
