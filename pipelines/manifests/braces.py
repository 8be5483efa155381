"""Brace patterns, as users of WebDataset and of shells write them: `{00000..00012}`, `{a,b}`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from pipelines.storage import listing, uris
from schemas.manifest import ManifestError

MAX_NAMES = 1_000_000
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.(-?\d+))?")
_GLOB = re.compile(r"[*?\[]")


def expand_all(pattern: str) -> tuple[list[str], list[str]]:
    """Does what `listing.expand_all` does, for each name that a brace pattern stands for.

    A file whose own name has the braces goes first. Of names without `*` a directory is listed
    once, however many there are.

    Raises:
        ManifestError: if a name stands for no file: a shard that is missing is never left out.
        OSError: as the filesystem reports it.
    """
    names = names_of(pattern)
    if names == [pattern] or listing.exists(pattern):
        return listing.expand_all(pattern)
    found: set[str] = set()
    linked: set[str] = set()
    for folder, group in itertools.groupby(names, lambda name: uris.parent(name)):
        there = set() if _GLOB.search(folder) else set(listing.list_files(folder))
        for name in group:
            plain = uris.normalize(name)
            files, links = ([plain], []) if plain in there else listing.expand_all(name)
            if not files:
                raise ManifestError(f"no file is at {name!r}, which {pattern!r} stands for")
            found.update(files)
            linked.update(links)
    return sorted(found), sorted(linked)


def names_of(pattern: str) -> list[str]:
    """Returns the names that a pattern stands for, in order; itself where it has no braces.

    Raises:
        ManifestError: if they are too many.
    """
    found = list(itertools.islice(_names(pattern), MAX_NAMES + 1))
    if len(found) > MAX_NAMES:
        raise ManifestError(f"{pattern!r} stands for more than {MAX_NAMES} names; use `*`")
    return list(dict.fromkeys(found))


def _names(pattern: str) -> Iterator[str]:
    start = pattern.find("{")
    while start >= 0:
        end = _closing(pattern, start)
        inside = pattern[start + 1 : end]
        choices = _choices(inside) if end else None
        if choices is not None:
            # The last range of a pattern moves fastest, as in a shell.
            for choice in choices:
                for rest in _names(pattern[end + 1 :]):
                    yield pattern[:start] + choice + rest
            return
        start = pattern.find("{", start + 1)  # what is in these is no list: a plain character
    yield pattern


def _closing(pattern: str, start: int) -> int:
    depth = 0
    for at in range(start, len(pattern)):
        depth += (pattern[at] == "{") - (pattern[at] == "}")
        if depth == 0:
            return at
    return 0


def _choices(inside: str) -> Iterator[str] | None:
    """Returns what the inside of braces stands for; None if it is neither a range nor a list."""
    if found := _RANGE.fullmatch(inside):
        return _range(*found.groups())
    parts, depth = [""], 0
    for character in inside:
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return (name for part in parts for name in _names(part)) if len(parts) > 1 else None


def _range(first: str, last: str, step: str | None) -> Iterator[str] | None:
    is_number = first.lstrip("-").isdigit()
    if is_number != last.lstrip("-").isdigit():
        return None
    low, high = (int(first), int(last)) if is_number else (ord(first), ord(last))
    size = abs(int(step or 1)) or 1
    numbers = range(low, high + 1, size) if low <= high else range(low, high - 1, -size)
    if not is_number:
        return map(chr, numbers)
    is_padded = any(len(end.lstrip("-")) > 1 and end.lstrip("-")[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    return (f"{number:0{width}d}" for number in numbers)
