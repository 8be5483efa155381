"""Names of files wherever they are: local paths and the URIs of every fsspec filesystem.

Equal files get equal names: local paths are made absolute and lose their `file:`, and a store that
goes by several schemes gets one of them.
"""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import unquote

from pipelines.storage.stores import is_local

_ALIASES = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}
# Of these the path begins with a bucket, or with anything: a slash in front means nothing.
_WITHOUT_ROOT = ("gs", "s3", "memory")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# `file:/x` of Java and Spark, `file:///x` and `file://localhost/x` of RFC 8089, fsspec's `local://`.
_FILE = re.compile(r"(?:file|local):(?://localhost(?=/)|//|(?=/))", re.IGNORECASE)


def canonical(uri: str) -> str:
    """Returns the one name of a place that goes by several.

    A URI of a local file becomes its path, with `%20` decoded (RFC 8089) unless a file is spelt
    just so. Other URIs get the first scheme of their store, in lower case.
    """
    if ":" not in uri:
        return uri
    if file := _FILE.match(uri):
        path = re.sub("^/+", "/", uri[file.end() :])
        if "%" in path and not os.path.lexists(path):
            path = unquote(path, errors="surrogateescape")
        return path
    if found := _SCHEME.match(uri):
        scheme = found[1].lower()
        scheme, path = _ALIASES.get(scheme, scheme), uri[found.end() :]
        return f"{scheme}://{path.lstrip('/') if scheme in _WITHOUT_ROOT else path}"
    return uri


def normalize(uri: str) -> str:
    """Returns an absolute path for a local file, other URIs without a slash at the end; both by
    their one name."""
    uri = canonical(uri)
    if is_local(uri):
        return os.path.abspath(uri)
    scheme, _, path = uri.partition("://")
    return f"{scheme}://{path.rstrip('/')}"


def absolute(uri: str) -> str:
    """Returns a place by its one name, as whoever works in another directory finds it."""
    uri = canonical(uri)
    return os.path.abspath(uri) if is_local(uri) else uri


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
