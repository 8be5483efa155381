"""Which files there are. What cannot be listed for now is an error and never an empty folder."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from fsspec import AbstractFileSystem

from pipelines.storage.stores import is_local, locate, retried
from pipelines.storage.uris import base_name, normalize

_HIDDEN = ("_", ".")


def exists(uri: str) -> bool:
    """Tells whether there is a file or directory, now and not when it was last listed.

    Unlike fsspec's own `exists`, which takes a store that fails for now for an absent file: rows
    have been lost to that.

    Raises:
        OSError: as the filesystem reports it.
    """
    return kind_of(uri) is not None


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
    uri, kind = _uri(filesystem, path), kind_of(pattern)
    if kind == "directory":
        found = [file for file in all_files(uri) if _is_visible(file, uri)]
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
    return sorted(uri for uri, kind in entries(normalize(directory)) if kind == "file")


def all_files(directory: str) -> Iterator[str]:
    """Yields the files of a directory, however deep they lie: hidden ones, and links, too.

    Raises:
        OSError: as the filesystem reports it.
    """
    return _matches(directory, ["**"])


@retried
def kind_of(uri: str) -> str | None:
    """Returns `file`, `directory` or another type that the filesystem knows; None if absent.

    Raises:
        OSError: as the filesystem reports it.
    """
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
def entries(directory: str) -> list[tuple[str, str]]:
    """Returns URI and type of all that is directly in a directory; nothing if there is no such.

    Raises:
        OSError: as the filesystem reports it.
    """
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
    for uri, kind in entries(directory):
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


def _is_visible(name: str, root: str) -> bool:
    inside = name.removeprefix(root).strip("/")
    return not any(part.startswith(_HIDDEN) for part in inside.split("/"))
