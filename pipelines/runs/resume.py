"""What an output directory already holds, and whether a run may go on there."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.per_file import Workers, over_files
from pipelines.manifests.units import digest_of
from pipelines.output.layout import EMBEDDINGS, REJECTS, is_of_tables, unit_file
from pipelines.output.merging import table_keys
from pipelines.output.unit_record import UnitRecord, is_whole
from pipelines.ownership.finished import own_units
from pipelines.ownership.planned import PlannedRun
from pipelines.records import Selection, Unit
from pipelines.runs.options import REASONS, EmbedConfig
from pipelines.storage import listing
from pipelines.storage.redaction import redact
from schemas.manifest import Columns
from schemas.rejects import STAYS

_NONE_KEPT = pa.schema([])


class ResumeError(ValueError):
    """The output holds something else than a part of this run: says what differs."""


@dataclass(frozen=True)
class Changed:
    """Finished units whose manifest file is another than it was, or may be.

    Attributes:
        looked_at: how many these are; their rows were read again.
        units: ids of those that have other rows now.
        seconds: that the reading took.
    """

    looked_at: int = 0
    units: frozenset[str] = frozenset()
    seconds: float = 0.0

    def line(self) -> str | None:
        """Says so; None if there is nothing to say."""
        if not self.looked_at:
            return None
        return (
            f"{self.looked_at} finished units, whose manifest was written to, were read again "
            f"in {self.seconds:.1f} s; {len(self.units)} have other rows and are done again"
        )


def changed_units(
    finished: Iterable[UnitRecord], units: Iterable[Unit], workers: Workers | None = None
) -> Changed:
    """Finds the finished units whose rows are no longer those that were embedded.

    Args:
        workers: that are to read them; None for this process.

    Raises:
        OSError: if a manifest cannot be read for now.
    """
    began = time.monotonic()
    planned = {unit.unit_id: unit for unit in units}
    doubtful = []
    for record in finished:
        unit = planned[record.result.unit_id]
        version = unit.manifest_version
        if not version or record.unit.manifest_version != version:
            doubtful.append((record.result, unit))
    digests = over_files(digest_of, [unit for _, unit in doubtful], workers)
    changed = frozenset(
        result.unit_id
        for (result, _), digest in zip(doubtful, digests, strict=True)
        if digest != result.digest
    )
    return Changed(len(doubtful), changed, time.monotonic() - began)


def pending_of(
    units: Iterable[Unit],
    finished: Sequence[UnitRecord],
    planned: PlannedRun | None,
    output: str,
    retried: Sequence[str] = (),
    changed: Collection[str] = (),
) -> list[Unit]:
    """Returns the units that a run has to do, given what the output holds.

    Args:
        finished: what the files of the embeddings say that are this output's.
        planned: what is written down of the output's run, if anything.
        retried: reasons of the rejects that are tried again.
        changed: ids of units that have other rows now, which are done again as a whole.
    """
    finished = [record for record in finished if record.result.unit_id not in changed]
    rejects = own_units(output, planned, REJECTS) if finished else []
    return pending_units(
        output,
        units,
        {record.result.unit_id: record for record in finished},
        {record.result.unit_id: record for record in rejects},
        retried,
    )


def retried_reasons(config: EmbedConfig) -> tuple[str, ...]:
    """Returns the reasons of the rejects that a run tries again; none without `retry_rejects`,
    and only those that can pass unless `only_reasons` names others."""
    can_pass = tuple(name for name in REASONS if name not in STAYS)
    return (config.only_reasons or can_pass) if config.retry_rejects else ()


def check_resumable(
    finished: Iterable[UnitRecord],
    units: Iterable[Unit],
    fingerprint: Mapping[str, Any],
    kept: pa.Schema = _NONE_KEPT,
) -> None:
    """Makes sure that the finished units are units of this run, with equal values in them.

    Args:
        kept: the columns that are copied from the manifest, as this run has them.

    Raises:
        ResumeError: names the first difference and the way out.
    """
    planned = {unit.unit_id: unit for unit in units}
    kept = _as_read_back(kept)
    for found in finished:
        unit = planned.get(found.result.unit_id)
        if unit is None:
            raise ResumeError(
                f"the output holds unit {found.result.unit_id!r}, which this manifest with this "
                "`rows_per_unit` does not have; use another `output`, or `overwrite`"
            )
        if found.unit.manifest_bytes != unit.manifest_bytes:
            raise ResumeError(
                f"manifest {unit.uri} had {found.unit.manifest_bytes} bytes when the output was "
                f"begun and has {unit.manifest_bytes} now; use another `output`, or `overwrite`"
            )
        if (found.unit.first_row, found.unit.rows) != (unit.first_row, unit.rows):
            raise ResumeError(
                f"the output was begun with another `rows_per_unit`: its unit {unit.unit_id!r} "
                f"has {found.unit.rows} rows from row {found.unit.first_row} on, this run's "
                f"{unit.rows} from row {unit.first_row} on; pass the first value, or `overwrite`"
            )
        _check_columns(found.unit, unit)
        _check_types(found, kept)
        count = unit.only.count if unit.only is not None else None
        if count is not None and found.result.records != count:
            raise ResumeError(
                f"the output holds {found.result.records} rows of unit {unit.unit_id!r}, this "
                f"run has {count}; use another `output`, or `overwrite`"
            )
        _check_fingerprint(found.fingerprint, fingerprint)


def check_not_own(config: EmbedConfig) -> None:
    """Makes sure that no table of the output is its manifest.

    Raises:
        ResumeError: if one is.
    """
    if any(is_of_tables(uri, config.output) for uri in config.manifest):
        raise ResumeError(
            "`manifest` names a table of `output` itself; to retry its rejects in their place, "
            "pass the manifest they came from and `retry_rejects`"
        )


def check_replay(units: Sequence[Unit], config: EmbedConfig) -> None:
    """Makes sure that `only_reasons` means something here.

    Raises:
        ResumeError: if it does not.
    """
    is_replay = config.retry_rejects or any(unit.only is not None for unit in units)
    if config.only_reasons and units and not is_replay:
        raise ResumeError("`only_reasons` needs `retry_rejects`, or a rejects table as `manifest`")


def _check_columns(found: Unit, unit: Unit) -> None:
    """Compares which columns hold what, however that was told, and where images start."""
    about = {"image_root": (found.image_root, redact(unit.image_root))}
    for field in fields(Columns):
        about[field.name] = getattr(found.columns, field.name), getattr(unit.columns, field.name)
    for name, (before, now) in about.items():
        if before != now:
            raise ResumeError(
                f"the output was begun with {name} {before!r} of {unit.uri}, this run has {now!r}; "
                "use another `output`, or `overwrite`"
            )


def _as_read_back(schema: pa.Schema) -> pa.Schema:
    """Returns the types that a file has once it is written; Parquet has no seconds, for example."""
    written = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), written)
    return pq.read_schema(pa.BufferReader(written.getvalue()))


def _check_types(found: UnitRecord, kept: pa.Schema) -> None:
    """Compares the types of kept columns, which a file that was added to the manifest can widen."""
    for column in kept:
        before = found.kept.get(column.name, column.type)
        if before != column.type and not pa.types.is_null(before):
            raise ResumeError(
                f"the output was begun with column {column.name!r} as {before}, and the manifest "
                f"has {column.type} now; use another `output`, or `overwrite`"
            )


def _check_fingerprint(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in sorted(set(found) | set(expected)):
        if found.get(name) != expected.get(name):
            raise ResumeError(
                f"the output was begun with {name} {found.get(name)!r}, this run has "
                f"{expected.get(name)!r}; use another `output`, or `overwrite`"
            )


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
    embedded = set(table_keys(str(again.only.embedded)).to_pylist())
    every = embedded | set(table_keys(rejected).to_pylist())
    return again if len(every) == record.result.records else unit
