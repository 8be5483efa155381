"""Plans the work: manifest files -> units, before any worker starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import pyarrow as pa

from pipelines.manifests.files import FoundFiles, check_dialect, find_manifests
from pipelines.manifests.formats import format_called
from pipelines.manifests.image_folder import IMAGES
from pipelines.manifests.request import FilePlan, ManifestRequest, unit_id
from pipelines.manifests.run_tables import joined
from pipelines.manifests.text.reader import JSON_KINDS
from pipelines.records import Unit
from pipelines.storage import listing, reading, uris
from pipelines.storage.reading import FileState
from schemas.common_types import common_json_column, common_type
from schemas.manifest import Columns, ManifestError


@dataclass(frozen=True)
class Plan:
    """The units of a run.

    Attributes:
        kept: the `keep_columns` with their types.
        rows: rows of all units, or None when only reading tells.
        left_out: what lies where the manifest does and is none.
    """

    units: tuple[Unit, ...]
    kept: pa.Schema
    rows: int | None
    left_out: tuple[str, ...] = ()


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
    check_dialect(request, {kind for _, kind in files})
    beside: defaultdict[str, set[str]] = defaultdict(set)
    for uri, kind in files:
        beside[_stem(uri)].add(kind)
    plans = [_plan_file(uri, kind, request, beside[_stem(uri)]) for uri, kind in files]
    if not any(plan.readable for plan in plans):
        damage = plans[0].units[0].damage
        raise ManifestError(f"no manifest file is readable; {files[0][0]}: {damage}")
    units = tuple(merged_units(unit for plan in plans for unit in plan.units))
    for unit in units:
        format_called(unit.format)  # a table of a stranger may name any
    rows = [unit.rows_to_read for unit in units]
    known = None if None in rows else sum(row for row in rows if row is not None)
    kept = _common_kept(
        (*file, plan.kept) for file, plan in zip(files, plans, strict=True) if plan.readable
    )
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
    """Returns the files of a manifest with the format of each, every file once; of a folder of
    images all that are in it.

    Raises:
        ManifestError: if a pattern matches no file, or a file's format is not known.
    """
    found: list[tuple[str, str]] = []
    for uri, kind in _found(request).files:
        files = listing.expand(uri) if kind == IMAGES.name else [uri]
        found += [(file, kind) for file in files]
    return found


def _found(request: ManifestRequest) -> FoundFiles:
    return find_manifests(request.patterns, request.format, request.output)


def _stem(uri: str) -> str:
    return uri.rpartition(".")[0]


def _plan_file(uri: str, kind: str, request: ManifestRequest, beside: Collection[str]) -> FilePlan:
    state = FileState(0, "") if kind == IMAGES.name else reading.file_state(uri)
    whole = Unit(
        unit_id=unit_id(uri, 0),
        uri=uri,
        format=kind,
        columns=Columns(),
        image_root=uris.normalize(request.image_root or uris.parent(uri)),
        first_row=0,
        rows=0,
        manifest_bytes=state.size,
        manifest_version=state.version,
    )
    return format_called(kind).plan(whole, request, beside)


def _common_kept(files: Iterable[tuple[str, str, list[pa.Field]]]) -> pa.Schema:
    """Finds the type of each kept column that holds its values in all files.

    Files of JSON lines have together what one file with all their rows would have.

    Args:
        files: URI, format and kept columns of each.
    """
    columns: dict[str, dict[tuple[bool, pa.Field], str]] = {}
    for uri, kind, kept in files:
        for field in kept:
            columns.setdefault(field.name, {}).setdefault((kind in JSON_KINDS, field), uri)
    return pa.schema([(name, _common(name, found)) for name, found in columns.items()])


def _common(name: str, found: Mapping[tuple[bool, pa.Field], str]) -> pa.DataType:
    """Args: found: the first file with each form of the column, and whether it is of JSON lines."""
    json_fields = [field for is_json, field in found if is_json]
    of_file = {field.type: uri for (is_json, field), uri in found.items() if not is_json}
    if json_fields:
        together = common_json_column(json_fields).type
        of_file.setdefault(together, found[True, json_fields[0]])
    common = common_type(of_file)
    if common is not None:
        return common
    one, other = next(p for p in combinations(of_file, 2) if common_type(p) is None)
    raise ManifestError(
        f"column {name!r} is {one} in {of_file[one]} and {other} in {of_file[other]}, which have "
        "no type in common; convert one of them, or leave the column out of `keep_columns`"
    )
