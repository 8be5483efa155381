"""Reads WebDataset tars: samples of adjacent members whose names share a key.

The key ends at the first dot of the base name. Members are read into memory and never extracted.
`tarfile` takes a damaged header for the end of the archive, so the end is checked here: two zero
blocks, and nothing but zeros behind them (POSIX.1-1988, ustar).
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, BinaryIO, cast

from pipelines import storage
from pipelines.compression import DamagedStream, decompressed, is_compressed
from pipelines.raw_rows import Fault, RawRow
from pipelines.records import Unit
from pipelines.redaction import redact
from schemas.manifest import ERROR_NAME, STATUS_NAME, TEXT_NAMES, UID_NAMES, Columns
from schemas.rejects import Reason

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MAX_MEMBER_BYTES = 256 << 20
_ZERO_BLOCK = bytes(tarfile.BLOCKSIZE)
_CHECK_BYTES = 1 << 20

# The names under which this reader hands out what it found in a sample.
COLUMNS = Columns(
    uid="uid", image_uri="url", image_bytes="image_bytes", text="text", sha256="sha256"
)


def read_webdataset(unit: Unit) -> Iterator[RawRow]:
    """Yields the samples of a tar, in order; last, if it is damaged, one fault for the rest."""
    number = 0
    try:
        with _seekable(unit.uri) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for _, members in groupby(tar, key=lambda member: _split(member.name)[0]):
                yield RawRow(number, _sample(tar, list(members), unit))
                number += 1
            damage = _damage_at_end(tar, file) or _wrong_count(unit.uri, number)
    except (tarfile.TarError, DamagedStream, EOFError, UnicodeDecodeError) as error:
        damage = str(error)
    if damage is not None:
        yield RawRow(number, Fault(Reason.MANIFEST_TRUNCATED, damage))


@contextmanager
def _seekable(uri: str) -> Iterator[BinaryIO]:
    """Opens a tar so that its end can be looked at again; a compressed one is unpacked to disk."""
    with storage.open_input(uri) as file:
        if not is_compressed(uri):
            yield file
            return
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(decompressed(uri, file), plain)
            plain.seek(0)
            yield cast(BinaryIO, plain)


def _damage_at_end(tar: tarfile.TarFile, file: BinaryIO) -> str | None:
    """Says what is wrong where `tarfile` stopped, or None."""
    file.seek(tar.offset)
    blocks = file.read(2 * tarfile.BLOCKSIZE)
    if not blocks.startswith(_ZERO_BLOCK):
        if len(blocks) < tarfile.BLOCKSIZE:
            return f"the archive ends at byte {tar.offset + len(blocks)} without its end blocks"
        return f"the header at byte {tar.offset} is damaged"
    if blocks != 2 * _ZERO_BLOCK:
        return f"expected two end blocks at byte {tar.offset}, got one"
    while chunk := file.read(_CHECK_BYTES):
        if chunk.strip(b"\0"):
            return f"data follows the end blocks at byte {tar.offset}"
    return None


def _wrong_count(uri: str, found: int) -> str | None:
    """Compares the samples with what img2dataset's statistics beside the tar say, if they do."""
    stats = uri.rpartition(".")[0] + "_stats.json"
    try:
        with storage.open_input(stats) as file:
            expected = json.loads(file.read(_CHECK_BYTES))["successes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if expected == found or not isinstance(expected, int):
        return None
    return f"the tar holds {found} samples, {storage.base_name(stats)} counts {expected}"


def _sample(
    tar: tarfile.TarFile, members: list[tarfile.TarInfo], unit: Unit
) -> dict[str, Any] | Fault:
    """Reads one sample: its image, its caption, and what its json says."""
    found: dict[str, bytes] = {}
    names: dict[str, str] = {}
    for member in members:
        field = _split(member.name)[1]
        if not member.isreg():
            return Fault(Reason.MALFORMED_ROW, f"{member.name!r} is not a regular file")
        if member.size > MAX_MEMBER_BYTES:
            return Fault(Reason.TOO_LARGE, f"{member.name!r} has {member.size} bytes")
        if field in IMAGE_FIELDS or field in ("txt", "json"):
            found[field] = _read(tar, member)
            names[field] = member.name
    try:
        return _values(found, names, _split(members[0].name)[0], unit)
    except (ValueError, RecursionError) as error:
        return Fault(Reason.MALFORMED_ROW, f"damaged text or json: {error}")


def _values(
    found: dict[str, bytes], names: dict[str, str], key: str, unit: Unit
) -> dict[str, Any] | Fault:
    about = json.loads(found["json"]) if "json" in found else {}
    if not isinstance(about, dict):
        return Fault(Reason.MALFORMED_ROW, f"expected a json object, got {type(about).__name__}")
    image = next((field for field in IMAGE_FIELDS if field in found), None)
    text = found["txt"].decode("utf-8") if "txt" in found else _first(about, TEXT_NAMES)
    values: dict[str, Any] = {name: _plain(about.get(name)) for name in unit.columns.kept}
    values["uid"] = _first(about, UID_NAMES) or storage.base_name(key)
    values["text"] = text
    # img2dataset takes the hash of the picture that it then resizes.
    is_resized = STATUS_NAME in about and ERROR_NAME in about
    values["sha256"] = None if is_resized else about.get("sha256")
    if image is not None:
        values["image_bytes"] = found[image]
        values["url"] = f"{redact(unit.uri)}#{names[image]}"
    return values


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise EOFError(f"the archive ends inside {member.name!r}")
    return data


def _split(name: str) -> tuple[str, str]:
    """Splits a member's name into key and lower-case field: "a/b.c.JPG" is ("a/b", "c.jpg")."""
    folder, slash, base = name.rpartition("/")
    key, _, field = base.partition(".")
    return folder + slash + key, field.lower()


def _first(about: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((about[name] for name in names if about.get(name) not in (None, "")), None)


def _plain(value: Any) -> str | None:
    """Kept fields of json members are text, as their types differ from sample to sample."""
    return value if value is None or isinstance(value, str) else json.dumps(value)
