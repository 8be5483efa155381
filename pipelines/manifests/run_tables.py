"""Reads rows again: a table of a run, or what a filter kept of it, says which rows of which units.

They are always read anew from the manifest they came from, never from the table: so members of
tars, inline images and expected hashes are what they were in the first run. For that every file of
a table holds its unit, as JSON, in its metadata. It may be a stranger's, who
by itself opens nothing but what lies in its run's directory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.images.fetch import allowed_file
from pipelines.manifests.image_folder import state_of
from pipelines.manifests.request import FilePlan, ManifestRequest
from pipelines.output.layout import EMBEDDINGS, KEPT, REJECTS
from pipelines.output.unit_record import UNIT_KEY, NotARecordError, find_record, unit_from_json
from pipelines.records import Selection, Unit
from pipelines.storage import reading, uris
from pipelines.storage.redaction import MASK, redact
from schemas.manifest import ColumnOverrides, ManifestError

_UNIT_ID = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,127}")  # it names files of the output


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
        raise ManifestError(f"`only_reasons` needs a rejects table, got {uri}; leave it out")
    if MASK in unit.uri + unit.image_root:
        raise ManifestError(
            f"the rows of {uri} came from {unit.uri} with credentials, which are not kept; pass "
            "that manifest instead"
        )
    try:
        state = state_of(unit)
    except FileNotFoundError as error:
        raise ManifestError(
            f"the manifest {unit.uri}, which the rows of {uri} came from, is not there any more"
        ) from error
    if state.size != unit.manifest_bytes:
        raise ManifestError(
            f"the manifest {unit.uri} had {unit.manifest_bytes} bytes when {uri} "
            f"was written and has {state.size} now; embed it anew"
        )
    expected = "" if state.version == unit.manifest_version else _digest(uri, unit)
    selection = Selection((uri,), tuple(reasons), count=_count(uri, reasons), digest=expected)
    return replace(unit, only=selection, manifest_version=state.version)


def _digest(uri: str, unit: Unit) -> str:
    """Returns the digest that the rows of a unit had, as a file of a table tells.

    Raises:
        ManifestError: if it does not tell.
    """
    try:
        record = find_record(uri)
    except NotARecordError:
        record = None
    if record is None or not record.result.digest:
        raise ManifestError(
            f"the manifest {unit.uri} has been written to since {uri} was, which does not tell "
            "whether its rows are the same; embed it anew"
        )
    return record.result.digest


def _count(uri: str, reasons: Collection[str]) -> int | None:
    """Counts the rows of a table's file, by its footer alone; None where that does not tell."""
    if not reasons:
        with reading.open_at_end(uri) as file:
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
    return replace(one, tables=tables, count=None, digest=one.digest or other.digest)


def allowed_unit(table: str, unit: Unit, allowed: Sequence[str], trusted: bool) -> Unit:
    """Returns a unit as it may be read: its manifest and the root of its images are allowed.

    Args:
        table: the file whose metadata the unit is from.
        allowed: URI prefixes beside `run_directory`.
        trusted: whether all that the table names is read.

    Raises:
        ManifestError: names what is refused, and what allows it.
    """
    if not _UNIT_ID.fullmatch(unit.unit_id):
        raise ManifestError(f"{table} calls its unit {unit.unit_id!r}, which names no unit")
    if trusted or MASK in unit.uri:
        return unit
    places = (run_directory(table), *allowed)
    is_folder = unit.between is not None  # in which any file is to be opened
    found = allowed_file(uris.join(unit.uri, "x") if is_folder else unit.uri, places)
    if found is None:
        place = unit.uri if is_folder else uris.parent(unit.uri)
        raise _refused(table, f"the manifest {redact(unit.uri)}", place)
    uri = uris.parent(found) if is_folder else found
    # Images start at the manifest, or where it is allowed, too.
    root = allowed_file(uris.join(unit.image_root, "x"), (uris.parent(uri), *places))
    if root is None:
        raise _refused(table, f"images from {redact(unit.image_root)}", unit.image_root)
    return replace(unit, uri=uri)


def run_directory(table: str) -> str:
    """Returns the directory that a table may name files in: its run's, or its own elsewhere."""
    folder = uris.parent(table)
    is_run = uris.base_name(folder) in (EMBEDDINGS, REJECTS, KEPT)
    return uris.parent(folder) if is_run else folder


def _refused(table: str, what: str, place: str) -> ManifestError:
    places = (redact(place),)
    return ManifestError(
        f"{table} is a table of a run, whose rows are read anew from where it says, and names "
        f"{what}, which lies elsewhere; if that is where they came from, pass "
        f"`allow_manifests_from={places!r}`"
    )


def plan_rows_again(uri: str, schema: pa.Schema, request: ManifestRequest) -> FilePlan:
    """Plans the rows of a table of a run, which are read from the manifest they came from.

    Raises:
        ManifestError: if they cannot be, or nobody allowed it.
    """
    if request.columns != ColumnOverrides(pairs=request.pairs):
        raise ManifestError(
            f"{uri} is a table of `clip-beam`, which knows the columns of its manifest; leave out "
            "`image_column`, `text_column`, `id_column`, `keep_columns` and `image_encoding`"
        )
    try:
        unit = unit_from_json(schema.metadata[UNIT_KEY])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f"what {uri} says of its rows makes no sense: {error}") from error
    if unit.columns.pairs != request.pairs:
        raise ManifestError(
            f"the rows of {uri} were read with `pairs={unit.columns.pairs!r}`; pass that"
        )
    if request.image_root is not None:
        unit = replace(unit, image_root=uris.normalize(request.image_root))
    unit = allowed_unit(uri, unit, request.allow_manifests_from, request.trust_run)
    unit = unit_of_table(uri, schema, unit, request.only_reasons)
    kept = [schema.field(name) for name in unit.columns.kept]
    return FilePlan([] if unit.rows_to_read == 0 else [unit], kept)
