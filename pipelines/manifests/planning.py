"""Plans the work: manifest files -> units, before any worker starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import pyarrow as pa

from pipelines.engine.per_file import Workers, over_files
from pipelines.manifests.files import FoundFiles, check_dialect, find_manifests
from pipelines.manifests.formats import format_called, register_format, registered_formats
from pipelines.manifests.image_folder import IMAGES
from pipelines.manifests.request import FilePlan, ManifestFormat, ManifestRequest, unit_id
from pipelines.manifests.run_tables import joined
from pipelines.manifests.text.reader import JSON_KINDS
from pipelines.records import Unit, known_sum
from pipelines.storage import listing, reading, uris
from pipelines.storage.reading import FileState
from schemas.common_types import common_json_column, common_type
from schemas.manifest import Columns, ManifestError

PLANNERS = 32  # files that are looked at side by side
SCAN_BYTES = 1 << 30  # of text, from which on workers read it, which first have to start
_File = tuple[str, str, frozenset[str]]  # URI, format, and formats of files of its stem


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


def plan_units(request: ManifestRequest, workers: Workers | None = None) -> Plan:
    """Cuts a manifest into units, which depend on the manifest and `rows_per_unit` alone.

    Reads Parquet footers side by side, and text manifests once from end to end; memory grows with
    the number of units, not of rows.

    Args:
        workers: that read text manifests, if these are large; None for this process.

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
    asked = [(uri, kind, frozenset(beside[_stem(uri)])) for uri, kind in files]
    plans = _plan_files(asked, request, workers)
    if not any(plan.readable for plan in plans):
        damage = plans[0].units[0].damage
        raise ManifestError(f"no manifest file is readable; {files[0][0]}: {damage}")
    units = tuple(merged_units(unit for plan in plans for unit in plan.units))
    for unit in units:
        format_called(unit.format)  # a table of a stranger may name any
    known = known_sum(unit.rows_to_read for unit in units)
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


def _plan_files(
    files: Sequence[_File], request: ManifestRequest, workers: Workers | None
) -> list[FilePlan]:
    """Plans files side by side, as a store takes its time for each; large text files by workers."""
    with ThreadPoolExecutor(PLANNERS) as pool:
        states = list(pool.map(_state, files))
        scanned = [
            (file, state)
            for file, state in zip(files, states, strict=True)
            if workers is not None and format_called(file[1]).is_scanned
        ]
        if sum(state.size for _, state in scanned) < SCAN_BYTES:
            scanned = []
        work = partial(_plan_file, request, registered_formats())
        elsewhere = {file for file, _ in scanned}
        here = [both for both in zip(files, states, strict=True) if both[0] not in elsewhere]
        plans = [*over_files(work, scanned, workers if scanned else None), *pool.map(work, here)]
    of_file = {file: plan for (file, _), plan in zip([*scanned, *here], plans, strict=True)}
    return [of_file[file] for file in files]


def _state(file: _File) -> FileState:
    return FileState(0, "") if file[1] == IMAGES.name else reading.file_state(file[0])


def _plan_file(
    request: ManifestRequest, formats: Sequence[ManifestFormat], found: tuple[_File, FileState]
) -> FilePlan:
    """Args: formats: that have to be known where this runs."""
    for form in formats:
        register_format(form)
    (uri, kind, beside), state = found
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
