"""Undoes what `Content-Encoding` says was done to a body."""

from __future__ import annotations

import io
import zlib

import zstandard

from pipelines.object_stores.faults import ChangedError, TooLargeError

_MAX_WINDOW = 8 << 20  # of zstd over http (RFC 9659)
_MAX_CODINGS = 4
# Registered, and not unpacked here. Whatever else is named cannot have been applied.
_UNKNOWN = ("br", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")  # what begins so was not packed


class UnknownCodingError(ValueError):
    """A coding that is not unpacked here."""


def unpacked(codings: str, body: bytes, max_bytes: int) -> bytes:
    """Returns a body without the codings that were applied to it.

    Servers also name codings that they did not apply: a body that does not begin as one packed so
    does, or begins as an image does where that cannot be told, stays as it is.

    Args:
        codings: the header's value; "" for none.

    Raises:
        UnknownCodingError: if it was packed in a way that is not unpacked here.
        TooLargeError: if it has more than `max_bytes` bytes.
        ChangedError: if it is cut or broken.
    """
    names = [name.partition(";")[0].strip(' \t"').lower() for name in codings.split(",")]
    known = [name for name in names if name in _UNPACK or name in _UNKNOWN]
    if len(known) > _MAX_CODINGS:
        raise UnknownCodingError(f"a body with {len(known)} codings")
    for name in reversed(known):
        if name in _UNKNOWN:
            if body.startswith(_IMAGES):
                continue
            raise UnknownCodingError(f"Content-Encoding {name} is not unpacked")
        body = _UNPACK[name](body, max_bytes)
    return body


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    """Unpacks all members of a gzip; zeros after the last are padding."""
    if not body.startswith(_GZIP):
        return body
    found = bytearray()
    while body.startswith(_GZIP):
        decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        found += _inflated(decoder, body, max_bytes - len(found))
        body = decoder.unused_data
    return bytes(found)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """Unpacks deflate in its zlib wrapping, or bare as some servers send it."""
    for bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            return _inflated(zlib.decompressobj(bits), body, max_bytes)
        except ChangedError:
            continue
    return body


def _inflated(decoder: zlib._Decompress, body: bytes, max_bytes: int) -> bytes:
    try:
        data = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ChangedError(f"the body cannot be unpacked: {error}") from error
    return _bounded(data, max_bytes, decoder.eof)


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    if not body.startswith(_ZSTD):
        return body
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    try:
        with decoder.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            data = reader.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise ChangedError(f"the body cannot be unpacked: {error}") from error
    return _bounded(data, max_bytes, True)


def _bounded(data: bytes, max_bytes: int, whole: bool) -> bytes:
    if len(data) > max_bytes:
        raise TooLargeError(f"more than {max_bytes} bytes once it is unpacked")
    if not whole:
        raise ChangedError("the body cannot be unpacked: it has no end")
    return data


_UNPACK = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "zstd": _unzstd,
}
