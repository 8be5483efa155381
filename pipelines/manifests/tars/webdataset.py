"""Reads WebDataset tars into rows, one a sample.

Members are read into memory and never extracted.
A damaged header could pass for the end of the archive, so the end is checked: two zero blocks, and
nothing but zeros behind them (POSIX.1-1988, ustar).
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipelines.manifests.request import FilePlan, ManifestFormat, ManifestRequest
from pipelines.manifests.rows import (
    MAX_RECORD_BYTES,
    MAX_TEXT_BYTES,
    SHOWN_TEXT_CHARS,
    Fault,
    RawRow,
)
from pipelines.manifests.tars.members import DamagedTar, Member, TarMembers
from pipelines.manifests.tars.samples import COLUMNS, Sample, Samples
from pipelines.records import Unit
from pipelines.storage import reading, uris
from pipelines.storage.compression import DamagedStream, decompressed, is_compressed
from pipelines.storage.foreign_json import read_json
from pipelines.storage.foreign_names import escaped
from pipelines.storage.redaction import redact
from pipelines.storage.retries import AttemptsFailed, is_transient
from schemas.manifest import (
    ERROR_NAME,
    STATUS_NAME,
    TEXT_NAMES,
    UID_NAMES,
    ColumnOverrides,
    Columns,
)
from schemas.rejects import Reason

MAX_MEMBER_BYTES = 64 << 20  # no larger image is decoded
# What a compressed tar may unpack to: so many times its size or so much, whichever is more, up to a
# limit. Else a few MB of packed zeros would fill the disk; images hardly shrink at all.
MAX_UNPACKED_RATIO = 32
ALWAYS_UNPACKED_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 64 << 30
_CHECK_BYTES = 1 << 20


def columns_of(overrides: ColumnOverrides) -> Columns:
    """Returns where a tar's fields are: what a flag names is a member's extension or json's field
    (of an image, base64 text), and the rest is recognised in each sample."""
    named = {"uid": overrides.uid, "image_bytes": overrides.image, "text": overrides.text}
    given: dict[str, Any] = {column: name for column, name in named.items() if name is not None}
    return replace(COLUMNS, kept=overrides.kept, **overrides.dialect(), **given)


def plan_webdataset(whole: Unit, request: ManifestRequest, beside: Collection[str]) -> FilePlan:
    """Makes one unit of a tar; only reading tells how many rows it has."""
    columns = columns_of(request.columns)
    kept = [pa.field(name, pa.string()) for name in columns.kept]
    return FilePlan([replace(whole, columns=columns, rows=None)], kept)


def read_webdataset(unit: Unit) -> Iterator[RawRow]:
    """Yields the samples of a tar, in order; last, if it is damaged, one fault for the rest."""
    number, damage = 0, None
    try:
        with _seekable(unit.uri) as (file, damage):
            members = TarMembers(file)
            samples = Samples(members, unit.columns.key_until)
            for sample in samples:
                yield RawRow(number, _values_of(file, sample, unit), sample.hint(unit.columns))
                number += 1
            if number == 0 and samples.left_out:
                yield RawRow(number, _nameless(samples))
                number += 1
            damage = damage or members.damage_at_end() or _wrong_count(unit.uri, number)
    except DamagedTar as error:
        damage = damage or escaped(str(error))
    if damage is not None:
        yield RawRow(number, Fault(Reason.MANIFEST_TRUNCATED, damage))


def webdataset_rows_at(unit: Unit, numbers: Collection[int]) -> Iterator[RawRow]:
    """Yields rows by their numbers; a tar has no index, so it is one pass up to the last."""
    for raw in read_webdataset(unit):
        if raw.number in numbers:
            yield raw
        if raw.number >= max(numbers):
            return


def _nameless(samples: Samples) -> Fault:
    """Stands for a tar that has members and no sample, so that nobody takes it for an empty one."""
    first = escaped(samples.first_left_out or "")
    detail = f"none of {samples.left_out} members is named KEY.EXTENSION; the first is {first!r}"
    return Fault(Reason.MALFORMED_ROW, detail)


@contextmanager
def _seekable(uri: str) -> Iterator[tuple[BinaryIO, str | None]]:
    """Opens a tar so that its end can be looked at again; a compressed one is unpacked to disk.

    With the file comes what is wrong with a compressed one behind what could be unpacked, or None.
    """
    with reading.open_input(uri) as file:
        if not is_compressed(uri):
            yield file, None
            return
        with tempfile.TemporaryFile() as plain:
            damage = _unpack(uri, file, cast(BinaryIO, plain))
            plain.seek(0)
            yield cast(BinaryIO, plain), damage


def _unpack(uri: str, file: BinaryIO, plain: BinaryIO) -> str | None:
    """Unpacks what can be unpacked; returns what is wrong with the rest, if anything is."""
    bound = _unpacked_bound(file.seek(0, io.SEEK_END))
    file.seek(0)
    stream = cast(io.BufferedReader, decompressed(uri, file))
    try:
        while piece := stream.read1():  # `read` would lose what comes just before the damage
            if plain.tell() + len(piece) > bound:
                return f"it unpacks to more than {bound} bytes"
            plain.write(piece)
    except DamagedStream as error:
        return str(error)
    return None


def _unpacked_bound(packed_bytes: int) -> int:
    return min(MAX_UNPACKED_BYTES, max(ALWAYS_UNPACKED_BYTES, MAX_UNPACKED_RATIO * packed_bytes))


def _wrong_count(uri: str, found: int) -> str | None:
    """Compares the samples with what img2dataset's statistics beside the tar say, if they do."""
    stats = uri.rpartition(".")[0] + "_stats.json"
    try:
        with reading.open_input(stats) as file:
            expected = read_json(file.read(_CHECK_BYTES))["successes"]
    except (ValueError, KeyError, TypeError):
        return None
    except OSError as error:  # stores also say 403 of a file that is not there
        if is_transient(error) or isinstance(error.__cause__, AttemptsFailed):
            raise
        return None
    if expected == found or not isinstance(expected, int):
        return None
    return f"the tar holds {found} samples, {uris.base_name(stats)} counts {expected}"


def _values_of(file: BinaryIO, sample: Sample, unit: Unit) -> dict[str, Any] | Fault:
    """Reads one sample: its image, its caption, and what its json says."""
    image, members = sample.image_field(unit.columns), sample.members
    texts = {"txt", str(unit.columns.text).lower(), str(unit.columns.uid).lower()}
    found: dict[str, bytes] = {}
    for field, member in members.items():
        name = escaped(member.name)
        if member.kind == "other":
            return Fault(Reason.MALFORMED_ROW, f"{name!r} is not a regular file")
        if field not in (image, "json", *texts):
            continue
        if member.kind == "sparse":
            return Fault(Reason.MALFORMED_ROW, f"{name!r} has holes; pack it without `--sparse`")
        most = _most_bytes(field, image)
        if member.size > most:
            detail = f"{name!r} has {member.size} bytes, more than {most}"
            return Fault(Reason.TOO_LARGE, detail, _beginning(file, member, field in texts))
        found[field] = _read(file, member, member.size)
    try:
        name = members[image].name if image else ""
        return _values(found, image, name, escaped(sample.key), unit)
    except ValueError as error:
        return Fault(Reason.MALFORMED_ROW, f"damaged text or json: {error}")


def _most_bytes(field: str, image: str | None) -> int:
    if field == image:
        return MAX_MEMBER_BYTES
    return min(MAX_MEMBER_BYTES, MAX_RECORD_BYTES if field == "json" else MAX_TEXT_BYTES)


def _beginning(file: BinaryIO, member: Member, is_text: bool) -> str | None:
    """Returns how a caption that is too long begins."""
    if not is_text:
        return None
    begins = _read(file, member, min(member.size, 4 * SHOWN_TEXT_CHARS))
    return begins.decode("utf-8", "ignore")[:SHOWN_TEXT_CHARS]


def _values(
    found: dict[str, bytes], image: str | None, name: str, key: str, unit: Unit
) -> dict[str, Any] | Fault:
    about = read_json(found["json"]) if "json" in found else {}
    if not isinstance(about, dict):
        return Fault(Reason.MALFORMED_ROW, f"expected a json object, got {type(about).__name__}")
    columns = unit.columns
    values: dict[str, Any] = {name: _plain(about.get(name)) for name in columns.kept}
    uid = None if columns.uid == COLUMNS.uid else _named(str(columns.uid), found, about)
    values[str(columns.uid)] = uid or _first(about, UID_NAMES) or uris.base_name(key)
    values[str(columns.text)] = _caption(columns, found, about)
    # img2dataset takes the hash of the image that it then resizes.
    is_resized = STATUS_NAME in about and ERROR_NAME in about
    values[str(columns.sha256)] = None if is_resized else about.get("sha256")
    if image is not None:
        values[str(columns.image_bytes)] = found[image]
        values[str(columns.image_uri)] = escaped(f"{redact(unit.uri)}#{name}")
    elif isinstance(text := about.get(str(columns.image_bytes)), str):
        values[str(columns.image_bytes)] = text
    return values


def _caption(columns: Columns, found: dict[str, bytes], about: dict[str, Any]) -> Any:
    if columns.text != COLUMNS.text:
        return _named(str(columns.text), found, about)
    beside = found["txt"].decode("utf-8") if "txt" in found else None
    return beside if beside and beside.strip() else _first(about, TEXT_NAMES) or beside


def _named(column: str, found: dict[str, bytes], about: dict[str, Any]) -> Any:
    """Returns what a flag names: a member's text, else a field of json."""
    member = found.get(column.lower())
    return about.get(column) if member is None else member.decode("utf-8")


def _read(file: BinaryIO, member: Member, size: int) -> bytes:
    file.seek(member.offset)
    data = file.read(size)
    if len(data) != size:
        raise DamagedTar(f"the archive ends inside {member.name!r}")
    return data


def _first(about: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Returns the first of json's fields that holds something; a blank text is nothing."""
    values = (about.get(name) for name in names)
    found = (v.strip() and v if isinstance(v, str) else v for v in values)
    return next((value for value in found if value not in (None, "")), None)


def _plain(value: Any) -> str | None:
    """Kept fields of json members are text, as their types differ from sample to sample."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


WEBDATASET = ManifestFormat(
    "webdataset", (".tar", ".tgz"), plan_webdataset, read_webdataset, webdataset_rows_at
)
