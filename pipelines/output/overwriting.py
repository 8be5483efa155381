"""Makes room for output, or says that there is some already; files of others are never removed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pipelines.output.own_files import Origin, origin_of
from pipelines.storage import listing, uris, writing
from pipelines.storage.stores import is_local

THREADS = 16  # that look at files and remove them: a store takes its time for each


class OutputExistsError(ValueError):
    """The output is there already: says what to do."""


def make_room(output: str, names: Sequence[str], overwrite: bool) -> None:
    """Makes sure that nothing in an output directory will be mixed with what was there before.

    Args:
        names: files and directories that are going to be written.
        overwrite: remove what this program wrote of them.

    Raises:
        OutputExistsError: if one is there and may not be removed, or holds a file of others.
        NotADirectoryError: if the output is a file.
    """
    removable = check_room(output, names, overwrite)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(writing.remove, removable))
    for name in names:
        _remove_if_empty(uris.join(output, name))


def check_room(output: str, names: Sequence[str], overwrite: bool) -> list[str]:
    """Does the check of `make_room`, and removes nothing; returns what that would remove.

    Raises:
        OutputExistsError, NotADirectoryError: as `make_room`.
    """
    writing.check_directory(output)
    origins = _origins(output, names)
    foreign = _foreign(origins)
    if foreign is not None:
        raise OutputExistsError(
            f"{foreign} is there, which this program did not write and does not remove; name "
            "another output, or remove it yourself"
        )
    there = [uri for uri, origin in origins.items() if origin is not Origin.PARTIAL]
    if there and not overwrite:
        first = next(name for name in names if any(_is_in(uri, output, name) for uri in there))
        raise OutputExistsError(
            f"{uris.join(output, first)} is there already; pass `overwrite` or name another output"
        )
    return list(origins)


def remove_partials(directory: str) -> None:
    """Removes what a killed process of this program left half written in a local directory."""
    if not is_local(directory):
        return
    for uri in listing.list_files(directory):
        if uris.base_name(uri).startswith(".") and origin_of(uri) is Origin.PARTIAL:
            with suppress(FileNotFoundError):
                writing.remove(uri)


def _origins(output: str, names: Sequence[str]) -> dict[str, Origin]:
    """Returns who wrote each file under some names of an output, however deep it lies."""
    there = {uris.base_name(uri) for uri, _ in listing.entries(uris.normalize(output))}
    found = [file for name in names if name in there for file in _files(uris.join(output, name))]
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(found, pool.map(_origin, found), strict=True))


def _files(uri: str) -> list[str]:
    """Returns the file of a name, or all that its directory holds, hidden ones and links too."""
    uri = uris.normalize(uri)
    if is_local(uri) and os.path.islink(uri):
        return [uri]
    found = sorted(listing.all_files(uri))
    return found or ([uri] if listing.kind_of(uri) == "file" else [])


def _origin(uri: str) -> Origin:
    if is_local(uri) and not os.path.isfile(uri) or os.path.islink(uri):
        return Origin.FOREIGN  # this program makes plain files only
    return origin_of(uri)


def _foreign(origins: Mapping[str, Origin]) -> str | None:
    """Returns the first file that is not, or cannot be told to be, this program's."""
    marked = Origin.MARKED in origins.values()
    for uri, origin in origins.items():
        if origin is Origin.FOREIGN or (origin is Origin.FORMED and not marked):
            return uri
    return None


def _is_in(uri: str, output: str, name: str) -> bool:
    whole = uris.normalize(uris.join(output, name))
    return uri == whole or uri.startswith(f"{whole}/")


def _remove_if_empty(uri: str) -> None:
    path = uris.normalize(uri)
    if is_local(uri) and os.path.isdir(path) and not os.path.islink(path):
        with suppress(OSError):  # it holds directories of others
            os.rmdir(path)
