"""Files wherever they are: local paths and every fsspec filesystem, named by URI.

Local paths are made absolute and lose their `file://`, so that equal files have equal names.
"""

from __future__ import annotations

import base64
import errno
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.utils import get_protocol

from pipelines import local_files
from pipelines.filesystems import S3, is_local, locate, open_retried, retried

_HIDDEN = ("_", ".")


class TooLargeError(ValueError):
    """A file that is larger than the caller takes."""


class ChangedError(ConnectionError):
    """A body that is not what the store said it has; reading again may help."""


def normalize(uri: str) -> str:
    """Returns an absolute path for a local file, other URIs without slashes at either end."""
    if not is_local(uri):
        scheme, _, path = uri.partition("://")
        return f"{scheme}://{path.strip('/')}"
    path = uri.removeprefix("local://").removeprefix("file://")
    return os.path.abspath(path)


def join(root: str, *names: str) -> str:
    """Appends names to a directory URI."""
    return posixpath.join(root, *names)


def parent(uri: str) -> str:
    """Returns the URI of the directory that holds a file."""
    uri = normalize(uri)
    return os.path.dirname(uri) if is_local(uri) else uri.rsplit("/", 1)[0]


def base_name(uri: str) -> str:
    """Returns the last part of a URI."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


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


def exists(uri: str) -> bool:
    """Tells whether there is a file or directory, now and not when it was last listed.

    Unlike fsspec's own `exists`, which takes a store that fails for now for an absent file: rows
    have been lost to that.

    Raises:
        OSError: as the filesystem reports it.
    """
    return _kind(uri) is not None


def expand(pattern: str) -> list[str]:
    """Returns the files a file name, a directory or a glob stands for, sorted.

    Files that begin with a dot or an underscore are left out, unless the pattern itself says so.
    fsspec's own `find` and `glob` would take what cannot be listed for now for empty.

    Raises:
        OSError: as the filesystem reports it.
    """
    return expand_all(pattern)[0]


def expand_all(pattern: str) -> tuple[list[str], list[str]]:
    """Does what `expand` does, and returns linked folders, which it does not follow, besides.

    Raises:
        OSError: as the filesystem reports it.
    """
    filesystem, path = locate(normalize(pattern))
    uri, kind = _uri(filesystem, path), _kind(pattern)
    if kind == "directory":
        found = [file for file in _matches(uri, ["**"]) if _is_visible(file, uri)]
    elif kind is not None:
        found = [uri]
    else:
        named = base_name(path).startswith(_HIDDEN)
        found = [
            f for f in _glob(filesystem, path) if named or not base_name(f).startswith(_HIDDEN)
        ]
    linked = {file for file in found if _is_local_directory(file)}
    return sorted(set(found) - linked), sorted(linked)


def list_files(directory: str) -> list[str]:
    """Returns the URIs of the files directly in a directory, sorted; none if there is no such.

    Raises:
        OSError: as the filesystem reports it.
    """
    return sorted(uri for uri, kind in _entries(normalize(directory)) if kind == "file")


@retried
def _kind(uri: str) -> str | None:
    """Returns `file`, `directory` or another type that the filesystem knows; None if absent."""
    filesystem, path = locate(normalize(uri))
    filesystem.invalidate_cache(path)
    try:
        return str(filesystem.info(path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # which is the name of no file
            raise
        return None


@retried
def _entries(directory: str) -> list[tuple[str, str]]:
    """Returns URI and type of all that is directly in a directory; nothing if there is no such."""
    filesystem, path = locate(directory)
    filesystem.invalidate_cache(path)
    try:  # not `isdir`, which takes a store that fails for now for an absent directory
        found = filesystem.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    inside = [info for info in found if info["name"].rstrip("/") != path]  # S3 may list itself
    return [(_uri(filesystem, info["name"]), info["type"]) for info in inside]


def _glob(filesystem: AbstractFileSystem, path: str) -> Iterator[str]:
    fixed = re.split(r"[*?[]", path, maxsplit=1)[0]
    if fixed == path:
        return
    root = fixed.rpartition("/")[0]
    parts = path[len(root) :].removeprefix("/").split("/")
    yield from _matches(_uri(filesystem, root or filesystem.root_marker), parts)


def _matches(directory: str, parts: Sequence[str]) -> Iterator[str]:
    """Yields the files whose path in a directory matches, part by part; `**` is any number."""
    part, rest = parts[0], parts[1:]
    if part == "**" and rest:
        yield from _matches(directory, rest)
    for uri, kind in _entries(directory):
        if part != "**" and not fnmatchcase(base_name(uri), part):
            continue
        deeper = parts if part == "**" else rest
        if kind == "directory" and deeper:
            yield from _matches(uri, deeper)
        elif kind != "directory" and not rest:
            yield uri


def _uri(filesystem: AbstractFileSystem, path: str) -> str:
    return normalize(str(filesystem.unstrip_protocol(path)))


def _is_local_directory(uri: str) -> bool:
    """Tells a link to a directory, which is not followed, from a link to a file."""
    return is_local(uri) and os.path.isdir(uri)


@retried
def write_atomically(uri: str, data: bytes | memoryview) -> None:
    """Writes a file so that it is either whole under its name or not there.

    Local files are written beside their final name, flushed to disk and renamed; an object store
    shows an object only once it is complete.
    """
    if not is_local(uri):
        filesystem, path = locate(uri)
        filesystem.makedirs(filesystem._parent(path), exist_ok=True)
        filesystem.pipe_file(path, bytes(data))
        return
    with local_files.replacing(normalize(uri)) as file:
        file.write(data)


@contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """Opens a file to write piece by piece; after the block it is whole under its name.

    It is not there if the block raises. What goes to an object store waits on the local disk, so
    that the upload can be tried again.
    """
    if is_local(uri):
        with local_files.replacing(normalize(uri)) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.flush()
        _upload(uri, file.name)


@retried
def _upload(uri: str, path: str) -> None:
    filesystem, target = locate(uri)
    filesystem.makedirs(filesystem._parent(target), exist_ok=True)
    filesystem.put_file(path, target)


def check_directory(uri: str) -> None:
    """Makes sure that a local path is a directory, or can become one.

    Raises:
        NotADirectoryError: if it is a file.
    """
    if is_local(uri) and os.path.isfile(normalize(uri)):
        raise NotADirectoryError(f"expected a directory to write to, got the file {uri}")


@retried
def create_exclusively(uri: str, data: bytes) -> bool:
    """Creates a file unless there is one; returns whether it did.

    As one step, content and all, on local disks and where the filesystem offers it (Google Cloud
    Storage, S3); elsewhere two callers in the same moment may both be told so.
    """
    filesystem, path = locate(normalize(uri))
    filesystem.makedirs(filesystem._parent(path), exist_ok=True)
    try:
        if is_local(uri):
            local_files.create_whole(path, data)
            return True
        filesystem.invalidate_cache(filesystem._parent(path))
        if exists(uri):
            return False
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


@retried
def remove(uri: str) -> None:
    """Removes a file."""
    filesystem, path = locate(uri)
    filesystem.rm_file(path)


@retried
def remove_tree(uri: str) -> None:
    """Removes a file or a directory with all it holds; nothing happens if there is none."""
    if is_local(uri) and os.path.isdir(normalize(uri)):
        shutil.rmtree(normalize(uri))
        return
    filesystem, path = locate(uri)
    if exists(uri):
        filesystem.rm(path, recursive=True)


def _check_arrival(data: bytes, size: int, crc32c: str | None) -> None:
    if len(data) != size:
        raise ChangedError(f"got {len(data)} of {size} bytes")
    if crc32c is None:
        return
    import google_crc32c  # there wherever gcsfs is

    found = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    if found != crc32c:
        raise ChangedError(f"expected a body with CRC32C {crc32c}, got {found}")


def _is_visible(name: str, root: str) -> bool:
    inside = name.removeprefix(root).strip("/")
    return not any(part.startswith(_HIDDEN) for part in inside.split("/"))
