"""Plans the work: manifest files -> units, before any worker starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.manifests import webdataset
from pipelines.manifests.files import FoundFiles, find_manifests
from pipelines.manifests.parquet.reader import DamagedParquet, read_footer
from pipelines.manifests.run_tables import allowed_unit, is_output_table, joined, unit_of_table
from pipelines.manifests.text import scan_text
from pipelines.output.unit_record import UNIT_KEY, unit_from_json
from pipelines.records import Unit
from pipelines.storage import reading, uris
from pipelines.storage.foreign_names import escaped, safe_stem
from schemas.manifest import ColumnOverrides, Columns, ManifestError, plain_type, resolve_columns

DEFAULT_ROWS_PER_UNIT = 10_000


@dataclass(frozen=True)
class ManifestRequest:
    """What the user asked for; None means what is recognised.

    Attributes:
        patterns: URIs of files, directories or globs.
        format: one of the values of `FORMATS`, or None to go by each file's name.
        image_root: where relative image references start, or None for each manifest's directory.
        only_reasons: of a rejects table, only rows with one of these; empty for all.
        output: directory whose tables are no manifests, should it lie where the manifest is.
        allowed: URI prefixes that the manifest which a table of a run names may lie under, beside
            the run's own directory.
        trust_run: whether all that such a table names is read.
    """

    patterns: tuple[str, ...]
    format: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    image_root: str | None = None
    rows_per_unit: int = DEFAULT_ROWS_PER_UNIT
    only_reasons: tuple[str, ...] = ()
    output: str | None = None
    allowed: tuple[str, ...] = ()
    trust_run: bool = False

    @property
    def columns(self) -> ColumnOverrides:
        """What the flags say about columns."""
        return ColumnOverrides(
            self.image_column, self.text_column, self.id_column, self.keep_columns
        )


@dataclass(frozen=True)
class Plan:
    """The units of a run.

    Attributes:
        kept: the `--keep_columns` with their types.
        rows: rows of all units, or None when only reading tells.
        left_out: what lies where the manifest does and is none.
    """

    units: tuple[Unit, ...]
    kept: pa.Schema
    rows: int | None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _FilePlan:
    """The units of one file, and the types of its columns."""

    units: list[Unit]
    kept: list[pa.Field]
    readable: bool = True


def plan_units(request: ManifestRequest) -> Plan:
    """Cuts a manifest into units, which depend on the manifest and `rows_per_unit` alone.

    Reads Parquet footers, and text manifests once from end to end; memory grows with the number of
    units, not of rows.

    Raises:
        ManifestError: if no file matches or none is readable, or a column is absent or ambiguous.
        OSError: if a file cannot be opened.
    """
    found = _found(request)
    files = found.files
    tars = {_stem(uri) for uri, kind in files if kind == "webdataset"}
    plans = [_plan_file(uri, kind, request, _stem(uri) in tars) for uri, kind in files]
    if not any(plan.readable for plan in plans):
        damage = plans[0].units[0].damage
        raise ManifestError(f"no manifest file is readable; {files[0][0]}: {damage}")
    units = tuple(merged_units(unit for plan in plans for unit in plan.units))
    rows = [unit.rows_to_read for unit in units]
    known = None if None in rows else sum(row for row in rows if row is not None)
    kept = _common_kept(plan.kept for plan in plans if plan.readable)
    return Plan(units, kept, known, found.left_out)


def merged_units(units: Iterable[Unit]) -> list[Unit]:
    """Makes one of units with the same id, which tables of one run have, with the rows of all.

    Raises:
        ManifestError: if they were cut differently, so that their rows are not the same.
    """
    found: dict[str, Unit] = {}
    for unit in units:
        other = found.setdefault(unit.unit_id, unit)
        if replace(other, only=None) != replace(unit, only=None):
            raise ManifestError(
                f"two manifests have a unit {unit.unit_id!r} of {unit.uri}, cut or read in "
                "different ways; embed one after the other, into different outputs"
            )
        if other is not unit:
            found[unit.unit_id] = replace(unit, only=joined(other.only, unit.only))
    return list(found.values())


def manifest_files(request: ManifestRequest) -> list[tuple[str, str]]:
    """Returns the files of a manifest with the format of each, every file once.

    Raises:
        ManifestError: if a pattern matches no file, or a file's format is not known.
    """
    return list(_found(request).files)


def _found(request: ManifestRequest) -> FoundFiles:
    return find_manifests(request.patterns, request.format, request.output)


def unit_id(uri: str, index: int) -> str:
    """Names a slice of a file."""
    return f"{file_id(uri)}-{index:05d}"


def file_id(uri: str) -> str:
    """Names a file: readable by its stem, unique by a hash of its URI."""
    name = escaped(uri)
    hashed = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{safe_stem(uris.base_name(name))}-{hashed}"


def _stem(uri: str) -> str:
    return uri.rpartition(".")[0]


def _plan_file(uri: str, kind: str, request: ManifestRequest, beside_tar: bool) -> _FilePlan:
    whole = Unit(
        unit_id=unit_id(uri, 0),
        uri=uri,
        format=kind,
        columns=Columns(),
        image_root=uris.normalize(request.image_root or uris.parent(uri)),
        first_row=0,
        rows=0,
        manifest_bytes=reading.file_size(uri),
    )
    if kind == "webdataset":
        columns = webdataset.columns_of(request.columns)
        kept = [pa.field(name, pa.string()) for name in columns.kept]
        return _FilePlan([replace(whole, columns=columns, rows=None)], kept)
    if kind == "parquet":
        return _plan_parquet(whole, request, beside_tar)
    return _plan_text(whole, request)


def _plan_parquet(whole: Unit, request: ManifestRequest, beside_tar: bool) -> _FilePlan:
    try:
        schema, _, group_rows = read_footer(whole.uri)
    except DamagedParquet as error:
        damage = f"not a whole Parquet file: {error}"
        return _FilePlan([replace(whole, damage=damage)], [], readable=False)
    if is_output_table(schema):
        return _plan_rows_again(whole.uri, schema, request)
    columns = _columns(schema, whole.uri, request)
    if beside_tar and columns.status:  # img2dataset's output: the other rows are in the tar
        kept = [pa.field(name, pa.string()) for name in columns.kept]  # as in the tar
        unit = replace(whole, columns=columns, format="img2dataset", rows=None)
        return _FilePlan([unit], kept)
    units = [
        replace(
            whole,
            unit_id=unit_id(whole.uri, index),
            columns=columns,
            first_row=piece.start,
            rows=len(piece),
        )
        for index, piece in enumerate(_pieces(group_rows, request.rows_per_unit))
    ]
    kept = [pa.field(name, plain_type(schema.field(name).type)) for name in columns.kept]
    return _FilePlan(units, kept)


def _pieces(group_rows: Iterable[int], step: int) -> Iterator[range]:
    """Yields the rows of each unit, none of which crosses the end of a row group: a reader would
    have to begin two."""
    first = 0
    for rows in group_rows:
        for start in range(first, first + rows, step):
            yield range(start, min(start + step, first + rows))
        first += rows


def _plan_rows_again(uri: str, schema: pa.Schema, request: ManifestRequest) -> _FilePlan:
    if request.columns != ColumnOverrides():
        raise ManifestError(
            f"{uri} is a table of `clip-beam`, which knows the columns of its manifest; leave out "
            "`--image_column`, `--text_column`, `--id_column` and `--keep_columns`"
        )
    try:
        unit = unit_from_json(schema.metadata[UNIT_KEY])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f"what {uri} says of its rows makes no sense: {error}") from error
    if request.image_root is not None:
        unit = replace(unit, image_root=uris.normalize(request.image_root))
    unit = allowed_unit(uri, unit, request.allowed, request.trust_run)
    unit = unit_of_table(uri, schema, unit, request.only_reasons)
    kept = [schema.field(name) for name in unit.columns.kept]
    return _FilePlan([] if unit.rows_to_read == 0 else [unit], kept)


def _plan_text(whole: Unit, request: ManifestRequest) -> _FilePlan:
    scan = scan_text(whole.uri, whole.format, request.rows_per_unit, request.keep_columns)
    if not scan.fields and not scan.slices:  # nothing in it, or nothing before the damage
        units = [replace(whole, damage=scan.damage)] if scan.damage else []
        return _FilePlan(units, [], readable=scan.damage is None)
    columns = _columns(scan.fields, whole.uri, request)
    units = [
        replace(
            whole,
            unit_id=unit_id(whole.uri, index),
            columns=columns,
            first_row=piece.first_row,
            rows=piece.rows,
            offset=piece.offset,
        )
        for index, piece in enumerate(scan.slices)
    ]
    if scan.damage and units:
        units[-1] = replace(units[-1], damage=scan.damage)
    elif scan.damage:
        units = [replace(whole, columns=columns, damage=scan.damage)]
    types = {field.name: field for field in scan.fields}
    return _FilePlan(units, [types[name] for name in columns.kept])


def _columns(fields: Iterable[pa.Field], uri: str, request: ManifestRequest) -> Columns:
    try:
        return resolve_columns(fields, request.columns)
    except ManifestError as error:
        raise ManifestError(f"{uri}: {error}") from None


def _common_kept(files: Iterable[list[pa.Field]]) -> pa.Schema:
    """Makes sure that kept columns have one type in all files."""
    fields: dict[str, pa.Field] = {}
    for kept in files:
        for field in kept:
            known = fields.setdefault(field.name, pa.field(field.name, field.type))
            if pa.types.is_null(known.type):  # a file that has no value tells no type
                fields[field.name] = pa.field(field.name, field.type)
            elif known.type != field.type and not pa.types.is_null(field.type):
                raise ManifestError(
                    f"column {field.name!r} is {known.type} in one manifest file and {field.type} "
                    "in another; leave it out of `--keep_columns` or convert it"
                )
    return pa.schema(list(fields.values()))
