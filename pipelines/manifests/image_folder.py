"""Reads folders of images with captions beside them: `a.jpg`, and `a.txt` or `a.json`.

A unit is a range of names in one directory. Where a range begins is told by a hash of the name, not
by counting: a file that is added changes the unit that it falls into and no other.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.manifests.request import FilePlan, ManifestFormat, ManifestRequest, unit_id
from pipelines.manifests.rows import MAX_RECORD_BYTES, MAX_TEXT_BYTES, Fault, RawRow
from pipelines.manifests.tars.fields import columns_of, text_fields, values_of
from pipelines.manifests.tars.samples import IMAGE_FIELDS
from pipelines.records import Unit
from pipelines.storage import listing, reading, stores, uris
from pipelines.storage.foreign_names import escaped
from schemas.manifest import Columns, ManifestError
from schemas.rejects import Reason

READERS = 16  # of captions at once, where a store takes its time
_AT_ONCE = 256  # captions that are asked for ahead
# So many ranges begin, at random, where one may have as many rows as a unit may: a longer one,
# which would have to be cut by counting, is one of thousands.
_RANGES = 8
_VERSIONS = ("generation", "ETag", "etag", "md5Hash", "crc32c", "LastModified", "created", "mtime")


@dataclass(frozen=True)
class _Image:
    """An image, and the files beside it that tell of it.

    Attributes:
        name: of the image, in its directory.
        texts: URIs by their ending, in lower case.
        version: changes with any of these files.
    """

    name: str
    texts: dict[str, str]
    version: str


def plan_folder(whole: Unit, request: ManifestRequest, beside: Collection[str]) -> FilePlan:
    """Cuts the directories of a folder into units, by the names in them.

    Raises:
        ManifestError: if the request names something that a folder of images has not.
        OSError: if a directory cannot be listed.
    """
    if request.image_column is not None or request.image_root is not None:
        raise ManifestError(
            f"{whole.uri} is a folder of images, which lie in it; leave out `image_column` and "
            "`image_root`, or name its manifest file"
        )
    columns = columns_of(request.columns)
    kept = [pa.field(name, pa.string()) for name in columns.kept]
    directories = sorted({uris.parent(uri) for uri in listing.expand(whole.uri) if is_image(uri)})
    units = []
    for directory in directories:
        images = _images(directory, columns)
        for first, until, part in _ranges(images, request.rows_per_unit):
            unit = replace(
                whole,
                uri=directory,
                columns=columns,
                image_root=whole.uri,
                rows=None,
                between=(first, until),
                manifest_version=_version(part),
            )
            units.append(replace(unit, unit_id=unit_id(unit.source, 0)))
    return FilePlan(units, kept)


def read_folder(unit: Unit) -> Iterator[RawRow]:
    """Yields the images of a unit in the order of their names, each with its caption."""
    found, below = _part(unit), unit.uri.removeprefix(unit.image_root).strip("/")
    read = partial(_row, unit, f"{below}/" if below else "")
    if stores.is_local(unit.uri):
        yield from map(read, itertools.count(), found)
        return
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(found), _AT_ONCE):
            some = found[start : start + _AT_ONCE]
            yield from pool.map(read, itertools.count(start), some)


def folder_rows_at(unit: Unit, numbers: Collection[int]) -> Iterator[RawRow]:
    """Yields rows by their numbers."""
    return (raw for raw in read_folder(unit) if raw.number in numbers)


def state_of(unit: Unit) -> reading.FileState:
    """Returns the state of what a unit is read from: its file, or its range of a directory.

    Raises:
        FileNotFoundError: if it is not there.
    """
    if unit.between is None:
        return reading.file_state(unit.uri)
    return reading.FileState(0, _version(_part(unit)))


def is_image(uri: str) -> bool:
    """Tells an image by its name."""
    return uris.base_name(uri).rpartition(".")[2].lower() in IMAGE_FIELDS


def _row(unit: Unit, below: str, number: int, image: _Image) -> RawRow:
    url = escaped(below + image.name)
    try:
        texts = {field: _text(uri, field) for field, uri in image.texts.items()}
        values: dict[str, Any] = values_of(texts, url.rpartition(".")[0], unit.columns)
    except reading.TooLargeError as error:
        return RawRow(number, Fault(Reason.TOO_LARGE, f"the text beside {url!r} has {error}"))
    except PermissionError:
        return RawRow(number, Fault(Reason.FORBIDDEN, f"the text beside {url!r} cannot be read"))
    except ValueError as error:
        return RawRow(number, Fault(Reason.MALFORMED_ROW, f"damaged text or json: {error}"))
    values[str(unit.columns.image_uri)] = below + image.name
    wanted = " or ".join(f".{field}" for field in sorted(_text_endings(unit.columns)))
    return RawRow(number, values, f"expected a {wanted} beside the image")


def _text(uri: str, field: str) -> bytes:
    return reading.read_retried(uri, MAX_RECORD_BYTES if field == "json" else MAX_TEXT_BYTES)


def _text_endings(columns: Columns) -> set[str]:
    return {field for field in (*text_fields(columns), "json") if not field.startswith("/")}


def _part(unit: Unit) -> list[_Image]:
    first, until = unit.between or ("", "")
    images = _images(unit.uri, unit.columns)
    return [one for one in images if first <= one.name and (not until or one.name < until)]


def _images(directory: str, columns: Columns) -> list[_Image]:
    """Returns the images of a directory by name, with what lies beside each."""
    endings = _text_endings(columns)
    texts: dict[str, dict[str, str]] = {}
    found = _files(directory)
    for name in found:
        stem, _, ending = name.rpartition(".")
        if ending.lower() in endings:
            texts.setdefault(stem, {})[ending.lower()] = name
    images = []
    for name in filter(is_image, found):
        beside = texts.get(name.rpartition(".")[0], {})
        version = "|".join(found[one] for one in (name, *sorted(beside.values())))
        there = {field: uris.join(directory, one) for field, one in beside.items()}
        images.append(_Image(name, there, version))
    return images


@stores.retried
def _files(directory: str) -> dict[str, str]:
    """Returns the visible files of a directory by name, sorted, and what changes with each.

    Raises:
        FileNotFoundError: if there is no such directory.
    """
    filesystem, path = stores.locate(directory)
    filesystem.invalidate_cache(path)
    found = {}
    for info in filesystem.ls(path, detail=True):
        name = uris.base_name(info["name"])
        if info["type"] != "directory" and not name.startswith((".", "_")):
            told = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
            found[name] = f"{name}:{info['size']}:{told}"
    return dict(sorted(found.items()))


def _version(images: Collection[_Image]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(image.version.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _ranges(images: list[_Image], rows: int) -> Iterator[tuple[str, str, list[_Image]]]:
    """Yields where each range begins and ends, "" for the ends of the directory, and what is in
    it."""
    starts = [0]
    for index, image in enumerate(images):
        is_full = index - starts[-1] == rows
        if index and (is_full or _begins_range(image.name, rows)):
            starts.append(index)
    for start, end in itertools.pairwise([*starts, len(images)]):
        until = images[end].name if end < len(images) else ""
        yield images[start].name if start else "", until, images[start:end]


def _begins_range(name: str, rows: int) -> bool:
    hashed = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(hashed, "big") % max(rows // _RANGES, 1) == 0


IMAGES = ManifestFormat("images", (), plan_folder, read_folder, folder_rows_at, names_images=True)
