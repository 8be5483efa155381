"""Reads rows again: a table of a run, or what a filter kept of it, says which rows of which units.

They are always read anew from the manifest they came from, never from the table: so members of
tars, inline images and expected hashes are what they were in the first run. For that every file of
a table holds its unit, as JSON, in its metadata. It may be a stranger's: `pipelines.replay_door`
decides whether what it names is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.layout import EMBEDDINGS, REJECTS
from pipelines.records import Selection, Unit
from pipelines.storage import listing, reading, uris
from pipelines.storage.redaction import MASK
from pipelines.unit_record import UNIT_KEY, NotARecordError, UnitRecord, find_record
from schemas.manifest import ManifestError


def is_of_tables(uri: str, output: str) -> bool:
    """Tells whether a file or directory is one of the two tables of an output, or in one."""
    root = uris.normalize(output)
    own = tuple(uris.join(root, table, "") for table in (EMBEDDINGS, REJECTS))
    return uris.join(uris.normalize(uri), "").startswith(own)


def is_output_table(schema: pa.Schema) -> bool:
    """Tells a file that `embed` or `filter` wrote from any other Parquet manifest."""
    return UNIT_KEY in (schema.metadata or {})


def unit_of_table(uri: str, schema: pa.Schema, unit: Unit, reasons: Collection[str]) -> Unit:
    """Returns the unit a file of a table came from, with only the rows of the file to read.

    Args:
        unit: as the file's metadata has it, looked at by `allowed_unit`.
        reasons: of a rejects table, only rows with one of these; empty for all.

    Raises:
        ManifestError: if the manifest it came from is gone or has changed, or the table has no
            reasons.
    """
    if reasons and "reason" not in schema.names:
        raise ManifestError(f"`--only_reasons` needs a rejects table, got {uri}; leave it out")
    if MASK in unit.uri + unit.image_root:
        raise ManifestError(
            f"the rows of {uri} came from {unit.uri} with credentials, which are not kept; pass "
            "that manifest instead"
        )
    try:
        size = reading.file_size(unit.uri)
    except FileNotFoundError as error:
        raise ManifestError(
            f"the manifest {unit.uri}, which the rows of {uri} came from, is not there any more"
        ) from error
    if size != unit.manifest_bytes:
        raise ManifestError(
            f"the manifest {unit.uri} had {unit.manifest_bytes} bytes when {uri} "
            f"was written and has {size} now; embed it anew"
        )
    count = _count(uri, reasons)
    return replace(unit, only=Selection((uri,), tuple(reasons), count=count))


def _count(uri: str, reasons: Collection[str]) -> int | None:
    """Counts the rows of a table's file, by its footer alone; None where that does not tell."""
    if not reasons:
        with reading.open_input(uri) as file:
            return int(pq.read_metadata(file).num_rows)
    try:
        record = find_record(uri)
    except NotARecordError:
        return None
    return sum(record.result.rejects.get(reason, 0) for reason in reasons) if record else None


def joined(one: Selection | None, other: Selection | None) -> Selection | None:
    """Joins the rows to read of a unit; None are all. How many there are only reading tells."""
    if one is None or other is None:
        return None
    tables = tuple(dict.fromkeys((*one.tables, *other.tables)))
    return replace(one, tables=tables, count=None)


def selected_rows(selection: Selection) -> list[int]:
    """Looks up the source rows that are to be read again, sorted."""
    found: set[int] = set()
    for uri in selection.tables:
        found.update(table_rows(uri, selection.reasons).to_pylist())
    if selection.embedded is not None:
        found.difference_update(table_rows(selection.embedded).to_pylist())
    return sorted(found)


def table_rows(uri: str, reasons: Collection[str] = ()) -> pa.ChunkedArray:
    """Returns the source rows in a file of a table; of rejects perhaps those of some reasons."""
    table = read_table(uri, ["source_row", *(["reason"] if reasons else [])])
    if reasons:
        table = table.filter(pc.field("reason").isin(list(reasons)))
    return table["source_row"]


def pending_units(
    output: str,
    units: Iterable[Unit],
    embeddings: Mapping[str, UnitRecord],
    rejects: Mapping[str, UnitRecord],
    retried: Collection[str],
) -> list[Unit]:
    """Returns what a run has to do: unfinished units, torn ones, and the rejects it retries.

    Args:
        embeddings, rejects: what the files of the two tables say of their units, by unit id.
        retried: reasons of the rejects that are to be retried; empty for none.
    """
    pending = []
    for unit in units:
        record = embeddings.get(unit.unit_id)
        if record is None:
            pending.append(unit)
        elif not is_whole(record, rejects.get(unit.unit_id)):
            pending.append(_torn(output, unit, record))
        elif reasons := sorted(set(record.result.rejects) & set(retried)):
            count = sum(record.result.rejects[reason] for reason in reasons)
            pending.append(_again(output, unit, tuple(reasons), count))
    return pending


def is_whole(embeddings: UnitRecord, rejects: UnitRecord | None) -> bool:
    """Tells whether both files of a unit were written by one attempt."""
    if rejects is None:
        return not embeddings.result.rejects
    one, other = (
        (record.result, record.run, record.attempt) for record in (embeddings, rejects)
    )  # fmt: skip
    return bool(embeddings.result.rejects) and one == other


def unit_file(output: str, table: str, unit_id: str) -> str:
    """Names the file of a unit in one of the two tables."""
    return uris.join(output, table, f"{unit_id}.parquet")


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Reads a file of one of the two tables, its checksums verified."""
    with reading.open_input(uri) as file:
        return pq.read_table(file, columns=columns, page_checksum_verification=True)


def _again(output: str, unit: Unit, reasons: tuple[str, ...], count: int | None) -> Unit:
    embedded, rejected = (unit_file(output, name, unit.unit_id) for name in (EMBEDDINGS, REJECTS))
    return replace(unit, only=Selection((rejected,), reasons, embedded, count))


def _torn(output: str, unit: Unit, record: UnitRecord) -> Unit:
    """Returns what to do with a unit whose retry was killed between its two files.

    A retry writes embeddings first. Rows of the old rejects file that are not among them therefore
    still lack an embedding, and are retried; should rows be missing, all of the unit is done anew.
    """
    again = _again(output, unit, (), None)
    assert again.only is not None
    rejected = again.only.tables[0]
    if not listing.exists(rejected):
        return unit
    embedded = set(table_rows(str(again.only.embedded)).to_pylist())
    every = embedded | set(table_rows(rejected).to_pylist())
    return again if len(every) == record.result.rows_read else unit
