"""Seeded bad pictures: whole ones of odd modes, damaged ones of every format, and bombs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 24  # pixels; damage finds the headers sooner in small files


def whole_images(rng: np.random.Generator) -> dict[str, bytes]:
    """Returns a picture of every format and mode that is decoded, by name."""
    colours = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE + 7, 3), np.uint8))
    modes = {mode: colours.convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "CMYK", "P", "1")}
    modes["I;16"] = Image.fromarray(rng.integers(0, 2**16, (SIDE, SIDE), np.uint16))
    modes["I"] = Image.fromarray(rng.integers(-(2**20), 2**20, (SIDE, SIDE), np.int32))
    modes["F"] = Image.fromarray(rng.normal(0, 300, (SIDE, SIDE)).astype(np.float32))
    frames = {"save_all": True, "append_images": [modes["RGB"].rotate(90), modes["RGB"]]}
    kinds = [("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")]
    kinds += [("JPEG", "RGB", {"progressive": True}), ("JPEG", "RGB", {"quality": 5})]
    kinds += [("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")]
    kinds += [("WEBP", "RGB", {}), ("WEBP", "RGBA", {}), ("WEBP", "RGB", {"lossless": True})]
    kinds += [("WEBP", "RGB", frames), ("GIF", "P", {}), ("GIF", "1", {}), ("GIF", "P", frames)]
    kinds += [("BMP", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "1")]
    kinds += [("TIFF", mode, {}) for mode in ("RGB", "RGBA", "L", "1", "CMYK", "I;16", "I", "F")]
    kinds += [("TIFF", "RGB", {"compression": f"tiff_{name}"}) for name in ("lzw", "deflate")]
    kinds += [("TIFF", "RGB", {"compression": "jpeg"}), ("TIFF", "1", {"compression": "group4"})]
    kinds += [("TIFF", "L", {"compression": "packbits"}), ("TIFF", "RGB", frames)]
    return {
        f"{kind}-{mode}-{'-'.join(map(str, settings))}": _encoded(modes[mode], kind, settings)
        for kind, mode, settings in kinds
    }


def _encoded(image: Image.Image, kind: str, settings: dict) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips one to eight bits."""
    found = bytearray(data)
    for position in rng.integers(0, len(found), rng.integers(1, 9)):
        found[position] ^= 1 << int(rng.integers(8))
    return bytes(found)


def flip_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips bits where the headers are."""
    return flip(data[:64], rng) + data[64:]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Leaves a beginning, perhaps an empty one."""
    return data[: rng.integers(0, len(data))]


def blank(data: bytes, rng: np.random.Generator) -> bytes:
    """Overwrites a run with zeros or ones, as a lost disk block does."""
    start, stop = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:start] + bytes([rng.choice([0, 255])]) * int(stop - start) + data[stop:]


def scramble(data: bytes, rng: np.random.Generator) -> bytes:
    """Overwrites a run with noise."""
    start, stop = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:start] + rng.bytes(int(stop - start)) + data[stop:]


def extreme(data: bytes, rng: np.random.Generator) -> bytes:
    """Puts the largest, smallest or an odd number into a field of a header."""
    value = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000])
    field = struct.pack(rng.choice([">I", "<I"]), int(value))[: rng.choice([2, 4])]
    start = int(rng.integers(0, min(len(data), 200)))
    return data[:start] + field + data[start + len(field) :]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    """Doubles a piece, so that sizes and offsets no longer fit."""
    start, stop = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:stop] + data[start:]


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flip, flip_head, cut, blank, scramble, extreme, repeat,
)  # fmt: skip


def bad_images(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields `count` pictures with their names: each whole one, then damage upon damage."""
    rng = np.random.default_rng(seed)
    whole = whole_images(rng)
    names = list(whole)
    for number in range(count):
        name = names[number % len(names)]
        if number < len(names):
            yield name, whole[name]
            continue
        damage = DAMAGES[number // len(names) % len(DAMAGES)]
        data = damage(whole[name], rng)
        if rng.random() < 0.1:  # the head of one format before the body of another
            data = whole[names[rng.integers(len(names))]][: rng.integers(4, 40)] + data
        yield f"{name}-{damage.__name__}-{number}", data


@lru_cache
def bombs() -> dict[str, bytes]:
    """Returns small files that claim, or would become, far more than they are."""
    sizes = [(1, 5_000), (1, 20_000), (1, 60_000), (2, 65_535), (60_000, 1), (13_000, 13_000)]
    found = {f"png {width}x{height}": png(width, height) for width, height in sizes}
    found["png 60000x60000"] = png(60_000, 60_000)
    unfolds = b"k\0\0" + packed_zeros(256 << 20)
    found["png text"] = png(8, 8, (b"zTXt", unfolds))
    found["png profile"] = png(8, 8, (b"iCCP", unfolds))
    found["gif 65535x65535"] = _gif_claim(65_535, 65_535)
    found["gif 9000x9000"] = _gif(9_000, 9_000)
    found["gif 10000 frames"] = _gif_frames(10_000)
    found["bmp 40000x40000"] = _bmp(40_000, 40_000)
    found["webp 16383x16383"] = _webp(16_383, 16_383)
    found["tiff 65535x65535"] = _tiff(65_535, 65_535)
    found["tiff 9000x9000 of nothing"] = _tiff(9_000, 9_000)
    found["jpeg 65500x65500"] = _jpeg(65_500, 65_500)
    found["jpeg 9000x9000 of nothing"] = _jpeg(9_000, 9_000)
    return found


def packed_zeros(size: int) -> bytes:
    """Returns so many zeros as `zlib.compress` packs them; of many, a piece is packed once."""
    pieces, rest = divmod(size, 1 << 20)
    packer = zlib.compressobj(wbits=-15)
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) if pieces else b""
    end = packer.compress(bytes(rest)) + packer.flush()
    checksum = struct.pack(">HH", size % 65521, 1)  # Adler-32 of zeros
    return b"\x78\x9c" + piece * pieces + end + checksum


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a 1-bit PNG, black as far as its data goes."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = packed_zeros((1 + (width + 7) // 8) * min(height, 70_000))
    every = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in every
    )


def _gif(width: int, height: int) -> bytes:
    return _encoded(Image.new("1", (width, height)), "GIF", {})


def _gif_claim(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\1\0\0;"


def _gif_frames(count: int) -> bytes:
    one = _encoded(Image.new("1", (8, 8)), "GIF", {})
    start = one.index(b",")
    return one[:start] + one[start:-1] * count + b";"


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 0, 0)
    palette = bytes(1024)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + 4, 0, 0, start) + header + palette + b"\xff\0\0\1"


def _webp(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    body = b"VP8L" + struct.pack("<I", 10) + b"\x2f" + struct.pack("<I", bits) + bytes(5)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 5), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 4)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IIH", 12, 0, len(tags)) + entries + bytes(4)


def _jpeg(width: int, height: int) -> bytes:
    data = _encoded(Image.new("L", (8, 8)), "JPEG", {})
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]
