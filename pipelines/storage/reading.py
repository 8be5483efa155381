"""Reads files wherever they are, and makes sure that all of a body arrived."""

from __future__ import annotations

import base64
from typing import BinaryIO, cast

from fsspec.utils import get_protocol

from pipelines.storage.stores import S3, locate, open_retried, retried


class TooLargeError(ValueError):
    """A file that is larger than the caller takes."""


class ChangedError(ConnectionError):
    """A body that is not what the store said it has; reading again may help."""


@retried
def open_input(uri: str) -> BinaryIO:
    """Opens a file for reading, seekable, never decompressed.

    Raises:
        OSError: as the filesystem reports it.
    """
    return open_retried(uri)


@retried
def file_size(uri: str) -> int:
    """Returns a file's size in bytes.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if the URI names a directory.
    """
    filesystem, path = locate(uri)
    info = filesystem.info(path)
    if info["type"] == "directory":
        raise IsADirectoryError(f"{uri} is a directory")
    return int(info["size"])


def read_whole(uri: str, max_bytes: int) -> bytes:
    """Reads a file of at most `max_bytes` bytes, and makes sure that all of it arrived unchanged.

    Length and, where the store keeps one, checksum are compared: GCS hands out a CRC32C, and the
    client of S3 checks what S3 keeps by itself. It is tried once: see `read_retried`.

    Raises:
        TooLargeError: if the file is larger; nothing of it is read.
        ChangedError: if other bytes arrived than the store said it has.
        OSError: as the filesystem reports it.
    """
    filesystem, path = locate(uri)
    info = filesystem.info(path)
    if info["type"] == "directory":
        raise IsADirectoryError(f"{uri} is a directory")
    size = int(info["size"])
    if size > max_bytes:
        raise TooLargeError(f"{size} bytes, more than {max_bytes}")
    # s3fs would ask for the size once more, to read large files in pieces.
    extra = {"max_concurrency": 1} if get_protocol(uri) in S3 else {}
    data = cast(bytes, filesystem.cat_file(path, **extra)) if size else b""
    if not info.get("contentEncoding"):  # else GCS unpacks it on the way
        try:
            _check_arrival(data, size, info.get("crc32c"))
        except ChangedError:
            filesystem.invalidate_cache(path)  # what is known of the file may be out of date
            raise
    return data


@retried
def read_retried(uri: str, max_bytes: int) -> bytes:
    """Does what `read_whole` does, and tries again after faults of a store that pass.

    Raises:
        TooLargeError, OSError: as `read_whole`.
    """
    return read_whole(uri, max_bytes)


def _check_arrival(data: bytes, size: int, crc32c: str | None) -> None:
    if len(data) != size:
        raise ChangedError(f"got {len(data)} of {size} bytes")
    if crc32c is None:
        return
    import google_crc32c  # there wherever gcsfs is

    found = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    if found != crc32c:
        raise ChangedError(f"expected a body with CRC32C {crc32c}, got {found}")
