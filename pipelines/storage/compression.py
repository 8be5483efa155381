"""Decompresses streams to their end marker, so that a cut file is never taken for a whole one."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import zstandard

SUFFIXES = (".gz", ".tgz", ".zst", ".bz2")
# What the decoders raise on a stream that is damaged or ends early.
DAMAGE_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)
# Pieces of one size, whatever the caller asks for: then how much can be read of a damaged stream
# does not depend on where reading began.
_PIECE_BYTES = 1 << 16
_INPUT_BYTES = 1 << 12  # zstd may make 2**15 bytes of one


class DamagedStream(OSError):
    """A compressed stream that is cut short or corrupt."""


def is_compressed(uri: str) -> bool:
    """Tells by its name whether a file is compressed."""
    return uri.lower().endswith(SUFFIXES)


def decompressed(uri: str, file: BinaryIO) -> BinaryIO:
    """Wraps a file by the suffix of its name; one without such a suffix is returned as it is.

    Reading raises `DamagedStream` when the stream is corrupt, or ends before its end marker.
    """
    name = uri.lower()
    if name.endswith((".gz", ".tgz")):
        return _wrap(cast(BinaryIO, gzip.GzipFile(fileobj=file)))
    if name.endswith(".bz2"):
        return _wrap(cast(BinaryIO, _Frames(file, bz2.BZ2Decompressor)))
    if name.endswith(".zst"):
        zstd = zstandard.ZstdDecompressor()
        return _wrap(cast(BinaryIO, _Frames(file, zstd.decompressobj)))
    return file


def _wrap(raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Checked(raw), 1 << 20))


class _Checked(io.RawIOBase):
    """Gives the errors of all decoders one name."""

    def __init__(self, stream: BinaryIO) -> None:
        # `read1` hands out what is there; `read` would lose what it gathered before the damage.
        self._read = getattr(stream, "read1", stream.read)
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._ready = self._ready or memoryview(self._next_piece())
        data, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _next_piece(self) -> bytes:
        try:
            return self._read(_PIECE_BYTES)
        except DAMAGE_ERRORS as error:
            raise DamagedStream(f"the compressed data is damaged or cut short: {error}") from error
        except OSError as error:  # bz2 reports corrupt data as a plain OSError
            if type(error) is not OSError or error.errno is not None:
                raise
            raise DamagedStream(f"the compressed data is damaged: {error}") from error


class _Frames:
    """Reads all frames of a file, one after the other, up to the end of the file.

    The libraries' own readers take a cut zstd frame for the end, and leave out a second bz2 stream
    whose head is damaged.
    """

    def __init__(self, file: BinaryIO, new_decoder: Callable[[], Any]) -> None:
        self._file = file
        self._new_decoder = new_decoder
        self._decoder = new_decoder()
        self._begun = False

    def read(self, _: int) -> bytes:
        """Returns what the next bytes of the file decode to, whatever its length; b"" at the end.

        Raises:
            EOFError: if the file ends inside a frame.
        """
        data = b""
        while not data:
            chunk = self._next_input()
            if not chunk:
                break
            self._begun = True
            data = self._decoder.decompress(chunk)
        return data

    def _next_input(self) -> bytes:
        chunk = b""
        if self._decoder.eof:
            chunk = self._decoder.unused_data
            self._decoder = self._new_decoder()
            self._begun = False
        chunk = chunk or self._file.read(_INPUT_BYTES)
        if not chunk and self._begun:
            raise EOFError("the last frame has no end")
        return chunk
