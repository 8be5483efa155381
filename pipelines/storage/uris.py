"""Names of files wherever they are: local paths and the URIs of every fsspec filesystem.

Local paths are made absolute and lose their `file://`, so that equal files have equal names.
"""

from __future__ import annotations

import os
import posixpath

from pipelines.storage.stores import is_local


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
