"""What a run is to do, written down before any worker starts: OUTPUT/_plan.json.

By it `status` and `finish` know what they judge when the launcher is gone, and parts of one run
know that they are that. The output gets an id, which lasts until it is overwritten; every file of a
unit carries it, so one that a worker of an earlier, overwritten run has left is told from the rest.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.output.layout import PLAN_JSON
from pipelines.output.unit_record import UnitRecord
from pipelines.records import known_sum
from pipelines.storage import reading, uris, writing

MAX_BYTES = 1 << 30  # some millions of units


class PlanError(ValueError):
    """The output belongs to another run: says what differs."""


@dataclass(frozen=True)
class PlannedRun:
    """A run as its launcher planned it.

    Attributes:
        output_id: of the output.
        run: id of the run.
        engine: that it runs on: `local`, `processes`, `ray` or the name of a Beam runner.
        job: name that the engine knows the run by, or "".
        parts: launchers that share the units.
        max_reject_fraction: of its rows, by which it is judged.
        fingerprint: what decides the values in the tables.
        options: all that was said of it, without credentials.
        units: id and rows of each; rows are None where only reading tells.
    """

    output_id: str
    run: str
    engine: str
    job: str
    parts: int
    max_reject_fraction: float
    fingerprint: Mapping[str, Any]
    options: Mapping[str, Any]
    units: tuple[tuple[str, int | None], ...]

    @property
    def rows(self) -> int | None:
        """Rows of all units, or None when only reading tells."""
        return known_sum(rows for _, rows in self.units)

    def own(self, records: Iterable[UnitRecord]) -> list[UnitRecord]:
        """Returns what was written for this output, and not for one before it."""
        return [record for record in records if record.by.output == self.output_id]


def read_planned(output: str) -> PlannedRun | None:
    """Reads what an output's run was to do; None where none has begun.

    Raises:
        PlanError: if the file makes no sense.
        OSError: as the filesystem reports it.
    """
    uri = uris.join(output, PLAN_JSON)
    try:
        found = json.loads(reading.read_retried(uri, MAX_BYTES))
        units = tuple((str(unit), rows) for unit, rows in found.pop("units"))
        names = PlannedRun.__dataclass_fields__
        return PlannedRun(**{n: v for n, v in found.items() if n in names}, units=units)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PlanError(
            f"{uri} was damaged or not written by `embed`; use another `output`, or `overwrite`"
        ) from error


def planned_run(output: str) -> PlannedRun:
    """Reads what an output's run was to do.

    Raises:
        PlanError: if none has begun there, or the file makes no sense.
        OSError: as the filesystem reports it.
    """
    found = read_planned(output)
    if found is None:
        raise PlanError(f"no run of `embed` has begun in {output}: it has no {PLAN_JSON}")
    return found


def begin(
    output: str, planned: PlannedRun, before: PlannedRun | None, finished: Sequence[UnitRecord]
) -> PlannedRun:
    """Writes down a run, for all of the output; returns it with the id that the output has.

    Args:
        planned: whose `output_id` is not known yet.
        before: what was written down of the run before, if anything.
        finished: what the files say that count as this output's.

    Raises:
        PlanError: if the files are of several outputs.
        OSError: as the filesystem reports it.
    """
    written = replace(planned, output_id=_id(before, planned, finished))
    writing.write_atomically(uris.join(output, PLAN_JSON), _content(written))
    return written


def begin_part(
    output: str, planned: PlannedRun, before: PlannedRun | None, finished: Sequence[UnitRecord]
) -> PlannedRun:
    """Writes down a run of which a part begins, or makes sure that it is the one the others do.

    Args:
        planned, before, finished: as `begin` takes them.

    Raises:
        PlanError: if it is not.
        OSError: as the filesystem reports it.
    """
    uri = uris.join(output, PLAN_JSON)
    if before is None:
        new = replace(planned, output_id=_id(None, planned, finished))
        if writing.create_exclusively(uri, _content(new)):
            return new
        before = read_planned(output)  # another part was first
    if before is None:
        raise PlanError(f"{uri} was removed while this part began; run again")
    if before.parts == 1:  # what one launcher began, several go on with
        return begin(output, planned, before, finished)
    _check_same(before, planned)
    return before


def _check_same(found: PlannedRun, planned: PlannedRun) -> None:
    if found.parts != planned.parts:
        raise PlanError(
            f"the output was begun in {found.parts} parts, this is one of {planned.parts}; pass "
            "the same number to each part, or use another `output`"
        )
    for name in ("units", "fingerprint"):
        if getattr(found, name) != getattr(planned, name):
            raise PlanError(
                f"the parts that began this output have other {name}; pass the same manifest and "
                "settings to each part, or use another `output`"
            )


def _id(found: PlannedRun | None, planned: PlannedRun, finished: Sequence[UnitRecord]) -> str:
    """Returns the output's id: a new one where what was begun has other values and no files."""
    if found is not None and (finished or found.fingerprint == planned.fingerprint):
        return found.output_id
    ids = {record.by.output for record in finished}
    if len(ids) > 1:
        raise PlanError(
            f"the output holds files of {len(ids)} runs that overwrote each other, and no "
            f"{PLAN_JSON} that says which counts; use another `output`, or `overwrite`"
        )
    return ids.pop() if ids else secrets.token_hex(8)


def _content(planned: PlannedRun) -> bytes:
    return json.dumps(asdict(planned), sort_keys=True).encode() + b"\n"
