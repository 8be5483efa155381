"""How an output is closed: its counts must add up before it says `_SUCCESS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.command_line import exits
from pipelines.command_line.exits import FAILED
from pipelines.output.layout import EMBEDDINGS, REJECTS
from pipelines.output.unit_record import UnitRecord, find_record, is_whole
from pipelines.output.unit_writer import ConservationError
from pipelines.ownership import record as run_record
from pipelines.ownership.finished import own_units
from pipelines.ownership.planned import PlannedRun
from pipelines.ownership.record import Totals
from pipelines.storage import listing, uris, writing


def finish_planned(output: str, planned: PlannedRun) -> Totals:
    """Closes a run whose launchers are gone, if every unit of its plan is whole.

    Raises:
        ConservationError: says which units are missing.
        ValueError, OSError: if the output holds something else, or cannot be read.
    """
    records = own_units(output, planned)
    rejects = {r.result.unit_id: r for r in own_units(output, planned, REJECTS)}
    whole = {r.result.unit_id for r in records if is_whole(r, rejects.get(r.result.unit_id))}
    missing = [unit for unit, _ in planned.units if unit not in whole]
    if missing:
        raise ConservationError(
            f"{len(missing)} of {len(planned.units)} units are missing, among them {missing[0]!r}; "
            "run `clip-beam embed` again as before to complete them"
        )
    return close(output, planned, records, {})


def _remove_foreign(output: str, planned: PlannedRun, records: Sequence[UnitRecord]) -> None:
    """Removes files that a worker of an earlier, overwritten run has named meanwhile.

    On disks there are none; in a store one may have looked at the lock before it changed hands.
    """
    own = {EMBEDDINGS: {r.result.unit_id for r in records}}
    own[REJECTS] = {r.result.unit_id for r in records if r.result.rejects}
    for table, names in own.items():
        for uri in listing.list_files(uris.join(output, table)):
            if uris.base_name(uri).removesuffix(".parquet") not in names:
                found = find_record(uri)
                if found is not None and found.by.output != planned.output_id:
                    writing.remove(uri)


def close(
    output: str,
    planned: PlannedRun,
    records: Sequence[UnitRecord],
    seconds: Mapping[str, float],
) -> Totals:
    """Writes run.json and, if the counts add up, `_SUCCESS`; returns the counts.

    Raises:
        ConservationError: if they do not.
    """
    _remove_foreign(output, planned, records)
    totals = run_record.total(record.result for record in records)
    run_record.write_run_record(output, planned, totals, seconds)
    run_record.write_attempts(output, planned.run, records)
    if planned.rows not in (None, totals.rows_read):
        raise ConservationError(
            f"the manifest has {planned.rows} rows and the output {totals.rows_read}; "
            "run again with `overwrite`, and report this as a bug"
        )
    # The counts add up, whatever they are; before the summary, whose reader may close the pipe.
    run_record.mark_success(output)
    return totals


def judged(command: str, totals: Totals, output: str, max_reject_fraction: float) -> int:
    """Returns the exit status of a whole run, and says why it is not 0."""
    if totals.rows_read and not totals.embedded:
        reason = max(totals.rejects, key=lambda name: totals.rejects[name])
        return exits.fail(
            command,
            f"none of {totals.rows_read} rows could be embedded, most were rejected as {reason}; "
            f"see {output}/rejects, and what `clip-beam check` says",
            FAILED,
        )
    if totals.reject_fraction > max_reject_fraction:
        return exits.fail(
            command,
            f"{totals.reject_fraction:.4f} of the rows were rejected, more than "
            f"`max_reject_fraction` {max_reject_fraction}; see {output}/rejects",
            FAILED,
        )
    return 0
