"""Reads WebDataset tars into rows, one a sample.

Members are read into memory and never extracted.
A damaged header could pass for the end of the archive, so the end is checked: two zero blocks, and
nothing but zeros behind them (POSIX.1-1988, ustar).
"""

from __future__ import annotations

import io
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
    source_of,
)
from pipelines.manifests.tars.fields import columns_of, text_fields, values_of
from pipelines.manifests.tars.members import DamagedTar, Member, TarMembers
from pipelines.manifests.tars.samples import Sample, Samples
from pipelines.records import Unit
from pipelines.storage import reading, uris
from pipelines.storage.compression import DamagedStream, decompressed, is_compressed
from pipelines.storage.foreign_json import read_json
from pipelines.storage.foreign_names import escaped
from pipelines.storage.retries import AttemptsFailed, is_transient
from schemas.rejects import Reason

MAX_MEMBER_BYTES = 64 << 20  # no larger image is decoded
# What a compressed tar may unpack to: so many times its size or so much, whichever is more, up to a
# limit. Else a few MB of packed zeros would fill the disk; images hardly shrink at all.
MAX_UNPACKED_RATIO = 32
ALWAYS_UNPACKED_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 64 << 30
_CHECK_BYTES = 1 << 20


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
    texts = text_fields(unit.columns)
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
        values = values_of(found, uris.base_name(escaped(sample.key)), unit.columns)
    except ValueError as error:
        return Fault(Reason.MALFORMED_ROW, f"damaged text or json: {error}")
    if image is not None:
        values[str(unit.columns.image_bytes)] = found[image]
        url = f"{source_of(unit.uri)}#{escaped(members[image].name)}"
        values[str(unit.columns.image_uri)] = url
    return values


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


def _read(file: BinaryIO, member: Member, size: int) -> bytes:
    file.seek(member.offset)
    data = file.read(size)
    if len(data) != size:
        raise DamagedTar(f"the archive ends inside {member.name!r}")
    return data


WEBDATASET = ManifestFormat(
    "webdataset", (".tar", ".tgz"), plan_webdataset, read_webdataset, webdataset_rows_at
)
