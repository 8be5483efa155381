"""Writes files wherever they are, so that each is whole under its name; and removes them."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.utils import get_protocol

from pipelines.object_stores.answers import ANY
from pipelines.object_stores.faults import StoreFault, named
from pipelines.storage import local_files
from pipelines.storage.listing import exists
from pipelines.storage.reading import file_state
from pipelines.storage.redaction import redact
from pipelines.storage.stores import GCS, S3, file_client, is_local, locate, place_of, retried
from pipelines.storage.uris import normalize


def write_atomically(uri: str, data: bytes | memoryview) -> None:
    """Writes a file so that it is either whole under its name or not there.

    Local files are written beside their final name, flushed to disk and renamed; an object store
    shows an object only once it is complete.
    """
    if not is_local(uri):
        upload(uri, io.BytesIO(data))
        return
    with local_files.replacing(normalize(uri)) as file:
        file.write(data)


@contextmanager
def open_output(uri: str) -> Iterator[BinaryIO]:
    """Opens a file to write piece by piece; after the block it is whole under its name.

    It is not there if the block raises. What goes to a store waits in a file without a name on the
    local disk, so that the upload can be tried again and a killed process leaves nothing behind.
    """
    if is_local(uri):
        with local_files.replacing(normalize(uri)) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield cast(BinaryIO, file)
        upload(uri, cast(BinaryIO, file))


def upload(uri: str, file: BinaryIO) -> None:
    """Sends all of a file to a store, in the place of whatever is there."""
    is_empty = not file.seek(0, io.SEEK_END)  # which some servers take in one of two ways
    if place_of(uri) is None or is_empty:
        _upload_otherwise(uri, file)
    elif put_if(uri, file, ANY) is None:
        raise StoreFault(f"{redact(uri)}: the upload was removed before it was finished; run again")


@retried
def _upload_otherwise(uri: str, file: BinaryIO) -> None:
    filesystem, target = locate(uri)
    make_parent(filesystem, target, uri)
    file.seek(0)
    if isinstance(file, io.BytesIO):
        filesystem.pipe_file(target, file.getvalue())
        return
    file.flush()
    handle = f"/dev/fd/{file.fileno()}"
    if os.path.exists(handle):
        filesystem.put_file(handle, target)
        return
    with tempfile.NamedTemporaryFile() as named_file:  # a system without names for open files
        shutil.copyfileobj(file, named_file)
        named_file.flush()
        filesystem.put_file(named_file.name, target)


def put_if(uri: str, file: BinaryIO, match: str | None) -> str | None:
    """Sends a file to S3 or GCS as one step, if what is there is of a version.

    Args:
        file: unlike that of any other caller; an object that holds it already counts as sent.
        match: what `reading.file_state` told; None for nothing, `ANY` for whatever there is.

    Returns:
        The new version; None if another object is there by now, or none.
    """
    place = place_of(uri)
    assert place is not None, "only these have conditions"
    file.flush()
    with named(redact(uri)):
        return file_client().put(place.store, place.key, file, match)


def check_directory(uri: str) -> None:
    """Makes sure that a local path is a directory, or can become one.

    Raises:
        NotADirectoryError: if it is a file.
    """
    if is_local(uri) and os.path.isfile(normalize(uri)):
        raise NotADirectoryError(f"expected a directory to write to, got the file {uri}")


def create_exclusively(uri: str, data: bytes) -> bool:
    """Creates a file unless there is one; returns whether it did.

    As one step, content and all, on local disks, on GCS and on S3; elsewhere, and on servers that
    speak like S3 and leave conditions unheeded, two callers in the same moment may both be told so.

    Args:
        data: unlike that of any other caller; a file that holds it already counts as created.
    """
    uri = normalize(uri)
    if place_of(uri) is None:
        return _create_as_the_filesystem_can(uri, data)
    if exists(uri):  # for servers that do not heed the condition
        return False
    return put_if(uri, io.BytesIO(data), None) is not None


@retried
def _create_as_the_filesystem_can(uri: str, data: bytes) -> bool:
    filesystem, path = locate(uri)
    make_parent(filesystem, path, uri)
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


def replace_if_match(uri: str, data: bytes, version: str) -> str | None:
    """Replaces a file if it is still of a version.

    As one step on GCS and on S3; elsewhere another's file that comes in the same moment is lost.

    Args:
        data: unlike that of any other caller; a file that holds it already counts as replaced.
        version: what `reading.file_state` told, or this function.

    Returns:
        The new version; None if the file is another one by now, or gone.
    """
    uri = normalize(uri)
    if version_of(uri) != version:
        return None
    if place_of(uri) is not None:
        return put_if(uri, io.BytesIO(data), version)
    write_atomically(uri, data)
    return version_of(uri)


def version_of(uri: str) -> str | None:
    """Returns the version of a file, or None if there is none."""
    try:
        return file_state(uri).version
    except FileNotFoundError:
        return None


def make_parent(filesystem: AbstractFileSystem, path: str, uri: str) -> None:
    """Makes the directory of a file, where there are directories: S3 and GCS have none, and asking
    for them costs requests."""
    if get_protocol(uri) not in S3 + GCS:
        filesystem.makedirs(filesystem._parent(path), exist_ok=True)


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
