"""Writes files of this machine so that each is whole under its name, on disks of every kind.

A mount may refuse modes, hard links and syncing, as CIFS, mounted buckets and other FUSE mounts do;
what it takes is the bytes, and nothing else is needed.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial-"
# What a mount says that cannot do something; a full or broken disk says otherwise.
_REFUSALS = (errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Opens a file beside its final name, which it gets when the block ends well.

    Raises:
        OSError: as the disk reports it, and if a pipe or device has that name.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError(f"expected a file to write, got the pipe or device {path}")
    with _partial_beside(path) as file:
        yield file
        file.flush()
        sync(file)
        file.close()
        os.replace(file.name, path)


def create_whole(path: str, data: bytes) -> None:
    """Gives a finished file its name; one that is filled under its name is empty for a moment.

    Raises:
        FileExistsError: if the name is taken.
    """
    with _partial_beside(path) as partial:
        partial.write(data)
        partial.flush()
        try:
            os.link(partial.name, path)
        except FileExistsError:
            raise
        except OSError:  # a disk without hard links, such as FAT or a mounted bucket
            with open(path, "xb") as file:
                file.write(data)


@contextmanager
def _partial_beside(path: str) -> Iterator[BinaryIO]:
    """Opens a new file in the directory of another, and removes what is left of it afterwards.

    Its mode is the umask's, as of every other new file: none is set, which some mounts refuse.
    """
    name = os.path.join(os.path.dirname(path), f"{PARTIAL}{secrets.token_hex(8)}")
    try:
        with open(name, "xb") as file:
            yield file
    finally:
        Path(name).unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Flushes a file to disk, where the mount knows how to."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
