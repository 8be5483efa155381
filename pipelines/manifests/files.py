"""Finds the manifest files of a file name, a directory or a glob, and says what is left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipelines.manifests import braces
from pipelines.manifests.formats import format_names, format_of, suffixes
from pipelines.manifests.image_folder import IMAGES, is_image
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.text.reader import json_kind
from pipelines.output.layout import is_of_tables
from pipelines.storage import listing, uris
from schemas.manifest import Dialect, ManifestError

_CSV = ("csv", "tsv")
_ABOUT = {
    "csv_delimiter": _CSV,
    "csv_quoting": _CSV,
    "column_names": _CSV,
    "key_until": ("webdataset",),
}
# A format that was added from outside may have a use for any of them.
_OTHERS = {"csv", "tsv", "jsonl", "json", "parquet", "webdataset", "images"}


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
        known, others = _known(pattern, files, kind)
        found.update(known)
        left_out.update(dict.fromkeys([*others, *linked]))
    return FoundFiles(tuple(found.items()), tuple(left_out))


def _known(
    pattern: str, files: Sequence[str], kind: str | None
) -> tuple[dict[str, str], list[str]]:
    """Returns the manifests among files that a pattern matched, with their formats, and the rest.

    A folder with any manifest in it is a manifest; with none, and images, a folder of images.
    """
    if kind == IMAGES.name:
        return _folders(pattern, files), []
    forms = {uri: kind or format_of(uri) for uri in files}
    if not any(forms.values()):  # else what has no ending is an index or a note
        forms = _told_by_content(files)
    known = {uri: form for uri, form in forms.items() if form is not None}
    if not known and any(map(is_image, files)):
        return _folders(pattern, files), _strangers(files)
    if not known and len(files) == 1:  # a directory or a glob may hold other things beside
        raise ManifestError(
            f"the format of {files[0]} does not show in its name; "
            f"pass `format`: {', '.join(format_names())}"
        )
    if not known:
        raise ManifestError(
            f"no manifest files matched {pattern!r}; expected files named "
            f"{', '.join(suffixes())}, perhaps compressed, or a folder of images"
        )
    return known, [uri for uri in files if uri not in known and not is_image(uri)]


def _told_by_content(files: Sequence[str]) -> dict[str, str | None]:
    """Finds JSON, which needs no ending that is known, among files that belong to no image."""
    return dict.fromkeys(files) | {uri: json_kind(uri) for uri in _strangers(files)}


def _strangers(files: Sequence[str]) -> list[str]:
    """Returns the files that are no image and lie beside none with the same stem."""
    stems = {uri.rpartition(".")[0] for uri in files if is_image(uri)}
    return [uri for uri in files if not is_image(uri) and uri.rpartition(".")[0] not in stems]


def _folders(pattern: str, files: Sequence[str]) -> dict[str, str]:
    """Returns the folders of images that a pattern names."""
    folders = [uris.normalize(name) for name in braces.names_of(pattern)]
    if not any(map(is_image, files)):
        raise ManifestError(f"expected a folder with images in it, got {pattern!r}")
    if any(folder in files or not listing.exists(folder) for folder in folders):
        first = next(filter(is_image, files))
        raise ManifestError(
            f"{pattern!r} matches images and no manifest; to take the images of a folder, name it: "
            f"{uris.parent(first)}"
        )
    return dict.fromkeys(folders, IMAGES.name)


def left_out_line(left_out: Sequence[str]) -> str:
    """Names some of what is left out, and how many they are."""
    shown = ", ".join(uris.base_name(uri) for uri in left_out[:3])
    more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    noun = "file that is no manifest" if len(left_out) == 1 else "files that are no manifests"
    return f"{len(left_out)} {noun}, by name: {shown}{more}"


def check_dialect(request: ManifestRequest, kinds: Collection[str]) -> None:
    """Makes sure that what is said of the spelling of files is about a file that is there.

    Raises:
        ManifestError: names what is about none.
    """
    plain = Dialect()
    for name, forms in _ABOUT.items():
        if getattr(request, name) != getattr(plain, name) and set(kinds) <= _OTHERS - set(forms):
            raise ManifestError(
                f"`{name}` is about {' and '.join(forms)}, and the manifest is "
                f"{', '.join(sorted(kinds))}; leave it out, or pass `format`"
            )
