"""The values of flags that name places: a `~` is expanded, and what cannot be read is refused.

Only flags are expanded: what a manifest refers to stays as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipelines.storage import listing, uris
from pipelines.storage.stores import is_local

_HOME = re.compile(r"(?P<flag>--\w+=)?(?P<scheme>(?:file|local)://)?(?P<path>~.*)", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/:]")  # of two letters at least: `C:/` is a disk
_COMMA = re.compile(r",(?![^{]*})")  # not between braces, where it is a pattern's


class PlaceError(argparse.ArgumentTypeError, ValueError):
    """The value of a flag that names no place: says what to type instead."""


def place(value: str) -> str:
    """Returns a path or URI by its one name, with a leading `~` expanded, which a shell does not do
    behind `=`.

    Raises:
        PlaceError: if there is no such home directory, and no file of that name either.
    """
    found = _HOME.fullmatch(value)
    if found is None or found["flag"]:
        return uris.canonical(value)
    path = os.path.expanduser(found["path"])
    if path.startswith("~") and not os.path.exists(path):
        raise PlaceError(f"there is no home directory for {value!r}; for that name, write ./{path}")
    return path


def local_place(value: str) -> Path:
    """Does what `place` does for commands that write to local directories only.

    Raises:
        PlaceError: as `place`; and if it is empty, or names a store, of which a path would make a
            folder called `gs:`.
    """
    path = place(value)
    if not path.strip():
        raise PlaceError(f"expected a directory, got {value!r}")
    if _SCHEME.match(path):
        raise PlaceError(
            f"expected a directory on this machine's disk, got {value!r}; write to one and copy it"
        )
    return Path(path)


def readable_place(value: str) -> str:
    """Does what `place` does for what is read, some of it more than once.

    Raises:
        PlaceError: as `place`, and for a pipe or device.
    """
    value = place(value)
    if is_local(value) and _is_pipe(uris.normalize(value)):
        raise PlaceError(
            f"expected a file, got {value!r}, which is a pipe or device and can be read only once; "
            "write it to a file and name that"
        )
    return value


def _is_pipe(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # absent, or no name of a file: who opens it says so
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def manifest_place(value: str) -> str:
    """Does what `readable_place` does for a file, directory or pattern.

    Raises:
        PlaceError: as `readable_place`, and for a list with commas.
    """
    value = readable_place(value)
    parts = [part.strip() for part in _COMMA.split(value)]
    if len(parts) > 1 and all(parts):
        with suppress(OSError):  # of a store: who opens it says so
            if not listing.expand(value):
                flags = " ".join(f"--manifest {part}" for part in parts)
                raise PlaceError(f"nothing is called {value!r}; name one place a flag: {flags}")
    return value


def expanded(argv: Sequence[str]) -> list[str]:
    """Returns a command line of Beam's flags with every leading `~` expanded."""
    found = (_HOME.fullmatch(word) for word in argv)
    return [
        (match["flag"] or "") + place(word.removeprefix(match["flag"] or "")) if match else word
        for word, match in zip(argv, found, strict=True)
    ]
