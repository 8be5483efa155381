"""Reads units of a manifest into rows, and rows into chunks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import google_crc32c
import pyarrow as pa

from pipelines.engine.chunks import CHUNK_BYTES, CHUNK_ROWS, make_chunk
from pipelines.manifests.captions import to_records
from pipelines.manifests.formats import format_called
from pipelines.manifests.image_folder import state_of
from pipelines.manifests.rows import Fault, RawRow, reject
from pipelines.output.merging import key_of, selected_keys
from pipelines.records import Chunk, End, Reject, Row, Selection, Unit
from pipelines.storage import reading

Records = tuple[Row | Reject, ...]  # of one row of a manifest


class ManifestChangedError(OSError):
    """A manifest was changed while a run was at work on it."""


class RowsDigest:
    """A digest of records as a reader yields them, in their order.

    Of images that the manifest itself holds there is a checksum in it; none is fetched for it.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, record: Row | Reject) -> None:
        """Takes the next record."""
        row, fault = (record.row, record.reason) if isinstance(record, Reject) else (record, None)
        # zlib's CRC lets another thread take Python's lock each time, and must wait to get it back.
        image = None if row.image_bytes is None else google_crc32c.value(row.image_bytes)
        about = (row.source_row, row.uid, row.url, row.text, row.expected_sha256, image, fault)
        kept = dict(row.kept) if row.kept else None
        self._hash.update(repr((about, kept)).encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Returns 32 hex digits."""
        return self._hash.hexdigest()


def check_unchanged(unit: Unit) -> None:
    """Makes sure that the manifest of a unit is still the file that it was cut from.

    What was opened tells its version, where it can: then the store is not asked again.

    Raises:
        ManifestChangedError: if it is another.
    """
    if not unit.manifest_version or reading.opened_version(unit.uri) == unit.manifest_version:
        return
    if state_of(unit) != (unit.manifest_bytes, unit.manifest_version):
        raise ManifestChangedError(
            f"the manifest {unit.uri} has changed since the run was planned; finished units are "
            "kept, run again, and what has other rows now is done again"
        )


def read_unit(unit: Unit, raws: Iterator[RawRow] | None = None) -> Iterator[Row | Reject]:
    """Yields the records of the rows that `read_rows` yields, one at a time."""
    for records in read_rows(unit, raws):
        yield from records


def read_rows(unit: Unit, raws: Iterator[RawRow] | None = None) -> Iterator[Records]:
    """Yields the records of every row of a unit, in order, one row at a time.

    What cannot be read of a damaged file is one reject at the end; it counts as one row.

    Of a unit with `only`, those records alone.

    Args:
        raws: rows of its file, at or before its first, where a reader is there already.

    Raises:
        ManifestChangedError: if the manifest is not the file that was planned.
        OSError: if the manifest cannot be read for now; the runner tries again.
    """
    if reading.opened_version(unit.uri) is None:  # else what is opened next tells
        check_unchanged(unit)
    yield from _rows(unit, raws) if unit.only is None else _selected(unit, unit.only)
    check_unchanged(unit)


def digest_of(unit: Unit) -> str:
    """Reads a unit and returns the digest of its rows; no image is fetched.

    Raises:
        OSError: as `read_unit`.
    """
    digest = RowsDigest()
    for record in read_unit(unit):
        digest.add(record)
    return digest.hexdigest()


def _selected(unit: Unit, only: Selection) -> Iterator[Records]:
    wanted = set(selected_keys(only))
    if not wanted:
        return
    digest = RowsDigest()
    for records in _rows(unit):
        if only.digest:
            for record in records:
                digest.add(record)
        keys = [_key(record) for record in records]
        if not wanted.isdisjoint(keys):
            yield tuple(r for r, key in zip(records, keys, strict=True) if key in wanted)
            wanted.difference_update(keys)
        if not wanted and not only.digest:
            return
    if only.digest and digest.hexdigest() != only.digest:
        raise ManifestChangedError(
            f"the manifest {unit.uri} has other rows than when {only.tables[0]} was written; embed "
            "it anew"
        )


def _key(record: Row | Reject) -> int:
    row = record.row if isinstance(record, Reject) else record
    return key_of(row.source_row, row.caption_index)


def _rows(unit: Unit, raws: Iterator[RawRow] | None = None) -> Iterator[Records]:
    after, form = unit.first_row, format_called(unit.format)
    for raw in form.read(unit) if raws is None else _part_of(unit, raws):
        after = raw.number + 1
        yield to_records(unit, raw)
    if unit.damage is not None:
        yield (reject(unit, after, Fault(form.damage, unit.damage)),)


def _part_of(unit: Unit, raws: Iterator[RawRow]) -> Iterator[RawRow]:
    """Yields the rows of a unit of known length, and takes none that follows."""
    assert unit.rows is not None, "what is read together was counted when it was planned"
    last = unit.first_row + unit.rows - 1
    for raw in raws if unit.rows else ():
        if raw.number >= unit.first_row:
            yield raw
        if raw.number >= last:
            return


def together(units: Iterable[Unit]) -> list[tuple[Unit, ...]]:
    """Groups units that one worker reads one after the other; most are alone."""

    def key(unit: Unit) -> tuple[str, int | str]:
        return unit.uri, unit.unit_id if unit.together is None else unit.together

    return [tuple(group) for _, group in itertools.groupby(units, key)]


def raws_of(units: Sequence[Unit]) -> Iterator[RawRow] | None:
    """Begins to read what several units lie in; None if each is to be read by itself."""
    if len(units) < 2 or any(unit.only is not None or unit.rows is None for unit in units):
        return None
    first, last = units[0], units[-1]
    rows = last.first_row + (last.rows or 0) - first.first_row
    return format_called(first.format).read(replace(first, rows=rows))


def read_chunks(
    unit: Unit,
    kept: Sequence[pa.Field] = (),
    rows: int = CHUNK_ROWS,
    limit: int | None = None,
    raws: Iterator[RawRow] | None = None,
) -> Iterator[Chunk]:
    """Yields the records of a unit in numbered chunks; the last one, perhaps empty, tells the end.

    A chunk closes before it has more records than that, or once the images in it have
    `CHUNK_BYTES`; the captions of a row stay together, so that its image is encoded once.

    Args:
        kept: the columns that are copied from the manifest, with their types.
        rows: records of a chunk, but for a row that has more.
        limit: rows of the unit at most.
        raws: as for `read_rows`.
    """
    taken: list[Row | Reject] = []
    number, total, before, held = 0, 0, 0, 0
    digest = RowsDigest()
    for records in itertools.islice(read_rows(unit, raws), limit):
        if taken and (len(taken) + len(records) > rows or held >= CHUNK_BYTES):
            yield make_chunk(taken, kept, unit=unit, number=number)
            before += len(taken)
            taken, number, held = [], number + 1, 0
        taken += records
        for record in records:
            digest.add(record)
        total += 1
        held += _image_bytes(records)
    read = before + len(taken)
    end = End(number + 1, total if unit.only is None else read, read, digest.hexdigest())
    yield make_chunk(taken, kept, unit=unit, number=number, end=end)


def _image_bytes(records: Records) -> int:
    """Returns the bytes of a row's image, which all its records share, if the manifest holds it."""
    image = next((r.image_bytes for r in records if isinstance(r, Row)), None)
    return len(image) if image else 0
