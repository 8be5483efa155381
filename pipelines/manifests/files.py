"""Finds the manifest files of a file name, a directory or a glob, and says what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.manifests import braces
from pipelines.manifests.formats import format_names, format_of, suffixes
from pipelines.manifests.tars.samples import IMAGE_FIELDS
from pipelines.manifests.text.reader import json_kind
from pipelines.output.layout import is_of_tables
from pipelines.storage import uris
from schemas.manifest import ManifestError

_IMAGES = tuple(f".{field}" for field in IMAGE_FIELDS)


@dataclass(frozen=True)
class FoundFiles:
    """What patterns stand for.

    Attributes:
        files: each manifest file once, and its format.
        left_out: what lies beside them and is neither a manifest nor an image, as its name tells;
            and folders that are linked, which are not followed.
    """

    files: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]


def find_manifests(patterns: Sequence[str], kind: str | None, output: str | None) -> FoundFiles:
    """Returns the files of a manifest, and what is left out.

    Args:
        kind: the format of all files, or None to go by each file's name.
        output: directory whose tables are no manifests.

    Raises:
        ManifestError: if a pattern matches no file, or a file's format is not known.
    """
    found: dict[str, str] = {}
    left_out: dict[str, None] = {}
    for pattern in patterns:
        files, linked = braces.expand_all(pattern)
        if output is not None:
            files = [uri for uri in files if not is_of_tables(uri, output)]
        known = {uri: kind or format_of(uri) for uri in files}
        if not any(known.values()):  # else what has no ending is an index or a note
            known = {uri: _told_by_content(uri) for uri in files}
        unknown = [uri for uri, form in known.items() if form is None]
        if unknown and len(files) == 1:  # a directory or a glob may hold other things beside
            raise ManifestError(
                f"the format of {unknown[0]} does not show in its name; "
                f"pass `format`: {', '.join(format_names())}"
            )
        if len(unknown) == len(files):
            raise ManifestError(
                f"no manifest files matched {pattern!r}; expected files named "
                f"{', '.join(suffixes())}, perhaps compressed"
            )
        found.update({uri: form for uri, form in known.items() if form is not None})
        others = [uri for uri in unknown if not _is_image(uri)]
        left_out.update(dict.fromkeys([*others, *linked]))
    return FoundFiles(tuple(found.items()), tuple(left_out))


def _told_by_content(uri: str) -> str | None:
    """Returns the format of a file without an ending that is known: JSON needs none."""
    return None if _is_image(uri) else json_kind(uri)


def _is_image(uri: str) -> bool:
    return uri.lower().endswith(_IMAGES)


def left_out_line(left_out: Sequence[str]) -> str:
    """Names some of what is left out, and how many they are."""
    shown = ", ".join(uris.base_name(uri) for uri in left_out[:3])
    more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    noun = "file that is no manifest" if len(left_out) == 1 else "files that are no manifests"
    return f"{len(left_out)} {noun}, by name: {shown}{more}"
