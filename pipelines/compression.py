"""Decompresses streams to their end marker, so that a cut file is never taken for a whole one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import BinaryIO, cast

import zstandard

SUFFIXES = (".gz", ".tgz", ".zst", ".bz2")
# What the decoders raise on a stream that is damaged or ends early.
DAMAGE_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, lzma.LZMAError)


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
        return _wrap(cast(BinaryIO, bz2.BZ2File(file)))
    if name.endswith(".zst"):
        return _wrap(cast(BinaryIO, _ZstdFrames(file)))
    return file


def _wrap(raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Checked(raw), 1 << 20))


class _Checked(io.RawIOBase):
    """Gives the errors of all decoders one name."""

    def __init__(self, stream: BinaryIO) -> None:
        # `read1` hands out what is there; `read` would lose what it gathered before the damage.
        self._read = getattr(stream, "read1", stream.read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._read(len(buffer))
        except DAMAGE_ERRORS as error:
            raise DamagedStream(f"the compressed data is damaged or cut short: {error}") from error
        except OSError as error:  # bz2 reports corrupt data as a plain OSError
            if error.errno is not None:
                raise
            raise DamagedStream(f"the compressed data is damaged: {error}") from error
        buffer[: len(data)] = data
        return len(data)


class _ZstdFrames:
    """Reads all frames of a zstd file; the library's own reader takes a cut frame for the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False
        self._ready = b""

    def read(self, size: int) -> bytes:
        while not self._ready and self._fill():
            pass
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _fill(self) -> bool:
        """Decodes one more piece; False at the end of the file."""
        chunk = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._begun = False
        chunk = chunk or self._file.read(1 << 16)
        if not chunk:
            if self._begun:
                raise EOFError("the last zstd frame has no end")
            return False
        self._begun = True
        self._ready = self._frame.decompress(chunk)
        return True
