"""Writes files wherever they are, so that each is whole under its name; and removes them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from pipelines.storage import local_files
from pipelines.storage.listing import exists
from pipelines.storage.stores import is_local, locate, retried
from pipelines.storage.uris import normalize


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
