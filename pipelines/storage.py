"""Files wherever they are: local paths and every fsspec filesystem, named by URI.

Local paths are made absolute and lose their `file://`, so that equal files have equal names.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

LOCAL = "file"
_HIDDEN = ("_", ".")
_PARTIAL = ".partial-"
_MISSING_EXTRAS = {"s3": "s3", "s3a": "s3"}


class StorageError(ValueError):
    """A URI whose filesystem cannot be used: says what to install."""


def is_local(uri: str) -> bool:
    """Tells whether a URI names a file of this machine."""
    return get_protocol(uri) in (LOCAL, "local")


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


def open_input(uri: str) -> BinaryIO:
    """Opens a file for reading, seekable, never decompressed.

    Raises:
        OSError: as the filesystem reports it.
    """
    filesystem, path = _locate(uri)
    return cast(BinaryIO, filesystem.open(path, "rb"))


def file_size(uri: str) -> int:
    """Returns a file's size in bytes.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if the URI names a directory.
    """
    filesystem, path = _locate(uri)
    info = filesystem.info(path)
    if info["type"] == "directory":
        raise IsADirectoryError(f"{uri} is a directory")
    return int(info["size"])


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """Reads a file, at most `max_bytes` + 1 bytes of it, so that a caller can tell a larger one."""
    with open_input(uri) as file:
        return file.read(max_bytes + 1)


def exists(uri: str) -> bool:
    """Tells whether there is a file or directory.

    Unlike fsspec's own `exists`, which takes a store that fails for now for an absent file: rows
    have been lost to that.

    Raises:
        OSError: as the filesystem reports it.
    """
    filesystem, path = _locate(uri)
    try:
        filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def expand(pattern: str) -> list[str]:
    """Returns the files a file name, a directory or a glob stands for, sorted.

    Files that begin with a dot or an underscore are left out, unless the pattern itself says so.
    """
    pattern = normalize(pattern)
    filesystem, path = _locate(pattern)
    if any(character in path for character in "*?[") and not filesystem.exists(path):
        named = base_name(path).startswith(_HIDDEN)
        found = [n for n in filesystem.glob(path) if named or not base_name(n).startswith(_HIDDEN)]
    elif filesystem.isdir(path):
        found = [name for name in filesystem.find(path) if _is_visible(name, path)]
    else:
        found = [path] if filesystem.exists(path) else []
    files = (name for name in found if not filesystem.isdir(name))
    return sorted(normalize(str(filesystem.unstrip_protocol(name))) for name in files)


def list_files(directory: str) -> list[str]:
    """Returns the URIs of the files directly in a directory, sorted; none if there is no such."""
    filesystem, path = _locate(normalize(directory))
    filesystem.invalidate_cache(path)
    try:  # not `isdir`, which takes a store that fails for now for an absent directory
        found = filesystem.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    files = (info["name"] for info in found if info["type"] == "file" and info["name"] != path)
    return sorted(normalize(str(filesystem.unstrip_protocol(name))) for name in files)


def write_atomically(uri: str, data: bytes | memoryview) -> None:
    """Writes a file so that it is either whole under its name or not there.

    Local files are written beside their final name, flushed to disk and renamed; an object store
    shows an object only once it is complete.
    """
    if not is_local(uri):
        filesystem, path = _locate(uri)
        filesystem.makedirs(filesystem._parent(path), exist_ok=True)
        filesystem.pipe_file(path, bytes(data))
        return
    path = normalize(uri)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=os.path.dirname(path), prefix=_PARTIAL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def remove_partials(directory: str) -> None:
    """Removes what `write_atomically` left in a local directory when its process was killed."""
    if is_local(directory) and os.path.isdir(normalize(directory)):
        for partial in Path(normalize(directory)).glob(f"{_PARTIAL}*"):
            partial.unlink(missing_ok=True)


def create_exclusively(uri: str, data: bytes) -> bool:
    """Creates a file unless there is one; returns whether it did.

    As one step on local disks and where the filesystem offers it (Google Cloud Storage, S3);
    elsewhere two callers in the same moment may both be told so.
    """
    filesystem, path = _locate(normalize(uri))
    filesystem.makedirs(filesystem._parent(path), exist_ok=True)
    try:
        if is_local(uri):
            with open(path, "xb") as file:
                file.write(data)
            return True
        filesystem.invalidate_cache(filesystem._parent(path))
        if exists(uri):
            return False
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def remove(uri: str) -> None:
    """Removes a file."""
    filesystem, path = _locate(uri)
    filesystem.rm_file(path)


def remove_tree(uri: str) -> None:
    """Removes a file or a directory with all it holds; nothing happens if there is none."""
    if is_local(uri) and os.path.isdir(normalize(uri)):
        shutil.rmtree(normalize(uri))
        return
    filesystem, path = _locate(uri)
    if exists(uri):
        filesystem.rm(path, recursive=True)


def _locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, path = url_to_fs(uri)
    except (ImportError, ValueError) as error:
        protocol = get_protocol(uri)
        extra = _MISSING_EXTRAS.get(protocol)
        remedy = f'run `pip install "clip-beam[{extra}]"`' if extra else "check its spelling"
        raise StorageError(f"no filesystem for {protocol}:// is installed; {remedy}") from error
    return filesystem, path


def _is_visible(name: str, root: str) -> bool:
    inside = name.removeprefix(root).strip("/")
    return not any(part.startswith(_HIDDEN) for part in inside.split("/"))
