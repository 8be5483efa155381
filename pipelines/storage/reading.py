"""Reads files wherever they are, and makes sure that all of a body arrived."""

from __future__ import annotations

import base64
import io
import os
import stat
from functools import partial
from typing import Any, BinaryIO, NamedTuple, cast

from fsspec.utils import get_protocol

from pipelines.object_stores.answers import Span
from pipelines.object_stores.faults import (
    ChangedError,
    MissingError,
    ObjectFault,
    TooLargeError,
    named,
)
from pipelines.storage.redaction import redact
from pipelines.storage.stores import (
    BUFFER_BYTES,
    S3,
    file_client,
    is_local,
    locate,
    open_retried,
    place_of,
    retried,
)

_OPENED: dict[str, str] = {}  # the versions of files of S3 and GCS
# What stores call the version of an object, the surest first.
_VERSIONS = ("generation", "ETag", "etag", "md5Hash", "crc32c", "LastModified", "created", "mtime")


def open_input(uri: str) -> BinaryIO:
    """Opens a file for reading, seekable, never decompressed.

    One of S3 or GCS that has a few MB is one request; more is asked for ahead of who reads on.

    Raises:
        OSError: as the filesystem reports it.
    """
    return _open(uri, at_end=False)


def open_at_end(uri: str) -> BinaryIO:
    """Opens a file of which the end is wanted first, as of Parquet: of S3 and GCS one request.

    Raises:
        OSError: as the filesystem reports it.
    """
    return _open(uri, at_end=True)


def _open(uri: str, at_end: bool) -> BinaryIO:
    place = place_of(uri)
    if place is None:
        file = _open_otherwise(uri)
        if at_end or not is_local(uri):
            return file
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, file), BUFFER_BYTES))
    from pipelines.object_stores.ranged import RangedFile

    begin = partial(file_client().begin_part, place.store, place.key)
    ranged = RangedFile(begin, redact(uri), at_end)
    _OPENED[uri] = ranged.version
    return cast(BinaryIO, io.BufferedReader(ranged, BUFFER_BYTES))


def opened_version(uri: str) -> str | None:
    """Returns the version, as `file_state` has it, that a file had when it was last opened here.

    All that was read of it then is of that version. "" where the store does not tell; None of files
    that may change while they are read.
    """
    return _OPENED.get(uri, "") if place_of(uri) is not None else None


@retried
def _open_otherwise(uri: str) -> BinaryIO:
    return open_retried(uri)


class FileState(NamedTuple):
    """What tells whether a file is still the one it was.

    Attributes:
        size: in bytes.
        version: changes with the file, and at times without a change of it: time stamps and inode
            of a local file, what a store calls its objects' versions; "" where there is nothing.
    """

    size: int
    version: str


def file_size(uri: str) -> int:
    """Returns a file's size in bytes.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if the URI names a directory.
    """
    return file_state(uri).size


def file_state(uri: str) -> FileState:
    """Returns the state of a file at this moment.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if the URI names a directory.
    """
    return _state_of_object(uri) or _state_otherwise(uri)


def _state_of_object(uri: str) -> FileState | None:
    """Asks for one byte, whose answer tells all; None if there is no such object, or not all of it
    is told. A filesystem asks two or three times."""
    place = place_of(uri)
    if place is None:
        return None
    with named(redact(uri)):
        try:
            got = file_client().begin_part(place.store, place.key, Span(0, 1)).result()
        except (MissingError, ObjectFault):
            return None
    return FileState(got.size, got.version) if got.version else None


@retried
def _state_otherwise(uri: str) -> FileState:
    filesystem, path = locate(uri)
    filesystem.invalidate_cache(path)
    info = filesystem.info(path)
    if info["type"] == "directory":
        raise IsADirectoryError(f"{uri} is a directory")
    if is_local(uri):
        found = os.stat(path)  # the change time as well, since the other can be set back
        times = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        return FileState(int(info["size"]), "-".join(map(str, times)))
    told = (str(info[name]) for name in _VERSIONS if info.get(name))
    return FileState(int(info["size"]), next(told, ""))


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
    local = is_local(uri)
    info = _info_of_file(path) if local else filesystem.info(path)
    if info["type"] == "directory":
        raise IsADirectoryError(f"{uri} is a directory")
    size = int(info["size"])
    if size > max_bytes:
        raise TooLargeError(f"{size} bytes, more than {max_bytes}")
    # s3fs would ask for the size once more, to read large files in pieces.
    extra = {"max_concurrency": 1} if get_protocol(uri) in S3 else {}
    data = b""
    if size:
        data = _read_file(path, size) if local else filesystem.cat_file(path, **extra)
    if not info.get("contentEncoding"):  # else GCS unpacks it on the way
        try:
            _check_arrival(data, size, info.get("crc32c"))
        except ChangedError:
            filesystem.invalidate_cache(path)  # what is known of the file may be out of date
            raise
    return data


def _info_of_file(path: str) -> dict[str, Any]:
    """Tells of a local file what its filesystem does, in one call of the system: threads that read
    many small files side by side wait for each other after every one."""
    found = os.stat(path)
    kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
    # Else a pipe or a device, which would be waited for.
    return {"type": kind, "size": found.st_size if stat.S_ISREG(found.st_mode) else 0}


def _read_file(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size + 1)  # one more tells a file that has grown


def read_retried(uri: str, max_bytes: int) -> bytes:
    """Does what `read_whole` does, and tries again after faults of a store that pass.

    Raises:
        TooLargeError, OSError: as `read_whole`.
    """
    place = place_of(uri)
    if place is None:
        return _read_otherwise(uri, max_bytes)
    with named(redact(uri)):
        return file_client().fetch(place.store, place.key, max_bytes)


@retried
def _read_otherwise(uri: str, max_bytes: int) -> bytes:
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
