"""Reads rows again: a table of a run, or what a filter kept of it, says which rows of which units.

They are always read anew from the manifest they came from, never from the table: so members of
tars, inline images and expected hashes are what they were in the first run. For that every file of
a table holds its unit, as JSON, in its metadata. Like a command line, it says which files are read:
replay only tables of your own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.layout import EMBEDDINGS, REJECTS
from pipelines.records import Unit, UnitResult
from pipelines.redaction import MASK, redact
from schemas.manifest import Columns, ManifestError

UNIT_KEY = b"clip_beam.source_unit"


def unit_to_json(unit: Unit) -> str:
    """Writes down a unit without credentials; which of its rows are retried is no part of it."""
    uri, image_root = redact(unit.uri), redact(unit.image_root)
    whole = replace(unit, only_rows=None, uri=uri, image_root=image_root)
    return json.dumps(asdict(whole), sort_keys=True)


def unit_from_json(text: str | bytes) -> Unit:
    """Reads what `unit_to_json` wrote."""
    values: dict[str, Any] = json.loads(text)
    columns = values.pop("columns")
    return Unit(**values, columns=Columns(**{**columns, "kept": tuple(columns["kept"])}))


def is_of_tables(uri: str, output: str) -> bool:
    """Tells whether a file or directory is one of the two tables of an output, or in one."""
    root = storage.normalize(output)
    own = tuple(storage.join(root, table, "") for table in (EMBEDDINGS, REJECTS))
    return storage.join(storage.normalize(uri), "").startswith(own)


def is_output_table(schema: pa.Schema) -> bool:
    """Tells a file that `embed` or `filter` wrote from any other Parquet manifest."""
    return UNIT_KEY in (schema.metadata or {})


def unit_of_table(uri: str, schema: pa.Schema, reasons: Collection[str]) -> Unit:
    """Returns the unit a file of a table came from, with only the rows of the file to read.

    Args:
        reasons: of a rejects table, only rows with one of these; empty for all.

    Raises:
        ManifestError: if the manifest it came from is gone or has changed, or the table has no
            reasons.
    """
    if reasons and "reason" not in schema.names:
        raise ManifestError(f"`--only_reasons` needs a rejects table, got {uri}; leave it out")
    unit = unit_from_json(schema.metadata[UNIT_KEY])
    if MASK in unit.uri + unit.image_root:
        raise ManifestError(
            f"the rows of {uri} came from {unit.uri} with credentials, which are not kept; pass "
            "that manifest instead"
        )
    try:
        size = storage.file_size(unit.uri)
    except FileNotFoundError as error:
        raise ManifestError(
            f"the manifest {unit.uri}, which the rows of {uri} came from, is not there any more"
        ) from error
    if size != unit.manifest_bytes:
        raise ManifestError(
            f"the manifest {unit.uri} had {unit.manifest_bytes} bytes when {uri} "
            f"was written and has {size} now; embed it anew"
        )
    return replace(unit, only_rows=table_rows(uri, reasons))


def table_rows(uri: str, reasons: Collection[str] = ()) -> tuple[int, ...]:
    """Returns the source rows in a file of a table, sorted; of rejects perhaps by reason."""
    table = read_table(uri, ["source_row", *(["reason"] if reasons else [])])
    if reasons:
        table = table.filter(pc.field("reason").isin(list(reasons)))
    return tuple(sorted(table["source_row"].to_pylist()))


def pending_units(
    output: str,
    units: Iterable[Unit],
    embeddings: Mapping[str, UnitResult],
    rejects: Mapping[str, UnitResult],
    retried: Collection[str],
) -> list[Unit]:
    """Returns what a run has to do: unfinished units, torn ones, and the rejects it retries.

    Args:
        embeddings, rejects: what the files of the two tables say of their units, by unit id.
        retried: reasons of the rejects that are to be retried; empty for none.
    """
    pending = []
    for unit in units:
        result = embeddings.get(unit.unit_id)
        if result is None:
            pending.append(unit)
        elif rejects.get(unit.unit_id) != (result if result.rejects else None):
            pending.append(_torn(output, unit, result))
        elif set(result.rejects) & set(retried):
            uri = unit_file(output, REJECTS, unit.unit_id)
            pending.append(replace(unit, only_rows=table_rows(uri, retried)))
    return pending


def unit_file(output: str, table: str, unit_id: str) -> str:
    """Names the file of a unit in one of the two tables."""
    return storage.join(output, table, f"{unit_id}.parquet")


def merge_retried(
    output: str, unit: Unit, scored: pa.Table, rejected: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Puts the retried rows of a unit in the place of what the output has of them.

    Doing it twice changes nothing. A unit that the output does not have is returned as it is.

    Args:
        scored, rejected: the rows of `unit.only_rows`.
    """
    uri = unit_file(output, EMBEDDINGS, unit.unit_id)
    if not storage.exists(uri):
        return scored, rejected
    old_scored, old_rejected = _tables(output, unit.unit_id, scored.schema, rejected.schema)
    retried = pa.array(unit.only_rows or (), pa.int64())
    return (
        pa.concat_tables([_without(old_scored, retried), scored]).sort_by("source_row"),
        pa.concat_tables([_without(old_rejected, retried), rejected]).sort_by("source_row"),
    )


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Reads a file of one of the two tables, its checksums verified."""
    with storage.open_input(uri) as file:
        return pq.read_table(file, columns=columns, page_checksum_verification=True)


def _torn(output: str, unit: Unit, result: UnitResult) -> Unit:
    """Returns what to do with a unit whose retry was killed between its two files.

    A retry writes embeddings first. Rows of the old rejects file that are not among them therefore
    still lack an embedding, and are retried; should rows be missing, all of the unit is done anew.
    """
    if not storage.exists(unit_file(output, REJECTS, unit.unit_id)):
        return unit
    scored, rejected = _tables(output, unit.unit_id)
    if scored.num_rows + rejected.num_rows != result.rows_read:
        return unit
    return replace(unit, only_rows=tuple(sorted(rejected["source_row"].to_pylist())))


def _tables(
    output: str,
    unit_id: str,
    scored_schema: pa.Schema | None = None,
    rejects_schema: pa.Schema | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Reads both files of a unit; what has an embedding is no reject, whatever the rejects say."""
    only = ["source_row"]
    scored = read_table(
        unit_file(output, EMBEDDINGS, unit_id), scored_schema.names if scored_schema else only
    )
    scored = scored.cast(scored_schema) if scored_schema else scored
    uri = unit_file(output, REJECTS, unit_id)
    if not storage.exists(uri):
        return scored, (rejects_schema or scored.schema).empty_table()
    rejected = read_table(uri, rejects_schema.names if rejects_schema else only)
    rejected = rejected.cast(rejects_schema) if rejects_schema else rejected
    return scored, _without(rejected, scored["source_row"])


def _without(table: pa.Table, rows: pa.Array | pa.ChunkedArray) -> pa.Table:
    values = rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows
    return table.filter(pc.invert(pc.is_in(table["source_row"], value_set=values)))
