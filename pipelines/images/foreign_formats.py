"""Names what bytes are that no decoder here takes, by how they begin. Nothing of them is parsed."""

from __future__ import annotations

import re

from PIL import Image

HEIC = "HEIC"
_HEAD_BYTES = 4096
_SIGNATURE_BYTES = 16  # as many as Pillow shows a plugin to recognise its format by
_STARTS = (
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG XR", (b"II\xbc\x01",)),
    ("Matroska or WebM video", (b"\x1aE\xdf\xa3",)),
    ("Ogg video", (b"OggS",)),
    ("Flash video", (b"FLV\x01",)),
    ("Windows Media video", (b"0&\xb2u\x8ef\xcf\x11",)),
    ("MPEG video", (b"\0\0\x01\xba", b"\0\0\x01\xb3")),
)
# The family of containers that ISO 14496-12 describes: what is in one, its brands say.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_ANY_IMAGE_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf"}
_AVIF_BRANDS = {b"avif", b"avis"}
_SVG = re.compile(rb"<(?:svg:)?svg[\s>/]")


def foreign_format(data: bytes, decoded: tuple[str, ...]) -> str | None:
    """Returns the name of an image, video or document that is not decoded here; else None.

    Args:
        decoded: names of Pillow's formats that are.
    """
    head = data[:_HEAD_BYTES]
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    for name, starts in _STARTS:
        if head.startswith(starts):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI video"
    if head[:1] == b"G" and head[188:189] == head[376:377] == b"G":
        return "MPEG video"
    if b"%PDF-" in head[:1024]:
        return "PDF"
    if _is_svg(head):
        return "SVG"
    return _of_pillow(head, decoded)


def _of_brands(head: bytes) -> str:
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))}
    if head[8:12] in _HEIC_BRANDS or (not brands & _AVIF_BRANDS and brands & _HEIC_BRANDS):
        return HEIC
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _ANY_IMAGE_BRANDS:
        return "HEIF"
    if head[8:12] == b"crx ":
        return "Canon CR3"
    return "MP4 or QuickTime video"


def _is_svg(head: bytes) -> bool:
    """Tells XML whose first element is an SVG, behind declarations, comments and a DOCTYPE."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "ignore").encode()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    while text.startswith((b"<?", b"<!")):
        if text.startswith(b"<!") and not text.startswith((b"<!--", b"<!DOCTYPE svg")):
            return False  # <!DOCTYPE html>
        end = b"?>" if text.startswith(b"<?") else b"-->" if text.startswith(b"<!--") else b">"
        if end == b">" and b"[" in text.partition(b">")[0]:
            text = text.partition(b"]")[2]
        text = text.partition(end)[2].lstrip()
    return bool(_SVG.match(text))


def ends_inside_a_box(data: bytes) -> bool:
    """Tells a container of ISO 14496-12, such as AVIF's, that is cut short."""
    at = 0
    while data[4:8] == b"ftyp" and at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if at + max(size, 8) > len(data):
            return True
        at = at + max(size, 8) if size else len(data)  # 0 for one that goes on to the end
    return False


def _of_pillow(head: bytes, decoded: tuple[str, ...]) -> str | None:
    Image.init()
    signature = head[:_SIGNATURE_BYTES].ljust(_SIGNATURE_BYTES, b"\0")
    for name, (_, accept) in Image.OPEN.items():
        if name not in decoded and accept and accept(signature):
            return name
    return None
