"""The record of a run: OUTPUT/run.json, then OUTPUT/_SUCCESS."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.output.layout import ATTEMPTS_JSON, RUN_JSON, SUCCESS
from pipelines.output.unit_record import UnitRecord, package_versions
from pipelines.ownership.planned import PlannedRun
from pipelines.records import UnitResult
from pipelines.storage import listing, uris, writing


@dataclass(frozen=True)
class Totals:
    """Counts over all units of a run.

    Attributes:
        rows_read: rows of the manifest. Each has a record for each of its captions.
        embedded: records, and with them
        rejects: all `records`, by reason.
    """

    units: int = 0
    rows_read: int = 0
    embedded: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Rejected records, whatever the reason."""
        return sum(self.rejects.values())

    @property
    def records(self) -> int:
        """Rows of both tables."""
        return self.embedded + self.rejected

    @property
    def reject_fraction(self) -> float:
        """Share of the records that were rejected; 0 of none."""
        return self.rejected / self.records if self.records else 0.0


def total(results: Iterable[UnitResult]) -> Totals:
    """Adds up the results of units."""
    units = rows_read = embedded = 0
    rejects: Counter[str] = Counter()
    for result in results:
        units += 1
        rows_read += result.rows_read
        embedded += result.embedded
        rejects.update(result.rejects)
    return Totals(units, rows_read, embedded, dict(sorted(rejects.items())))


def count_lines(totals: Totals) -> list[str]:
    """Returns the lines about rows and, where these have several captions, records."""
    reasons = ", ".join(f"{name} {count}" for name, count in totals.rejects.items())
    records = f"records    {totals.records}, one for each caption"
    return [
        f"rows read  {totals.rows_read}",
        *([records] if totals.records != totals.rows_read else []),
        f"embedded   {totals.embedded}",
        f"rejected   {totals.rejected}" + (f" ({reasons})" if reasons else ""),
    ]


def write_run_record(
    output: str, planned: PlannedRun, totals: Totals, seconds: Mapping[str, float]
) -> None:
    """Writes run.json in one piece.

    Args:
        seconds: by stage.
    """
    record = {
        "run": planned.run,
        "output_id": planned.output_id,
        "counts": {
            "units": totals.units,
            "rows_read": totals.rows_read,
            "records": totals.records,
            "embedded": totals.embedded,
            "rejected": totals.rejected,
            "rejects_by_reason": dict(totals.rejects),
        },
        "fingerprint": dict(planned.fingerprint),
        "options": dict(planned.options),
        "versions": package_versions(),
        "seconds": dict(seconds),
    }
    data = json.dumps(record, indent=2, sort_keys=True) + "\n"
    writing.write_atomically(uris.join(output, RUN_JSON), data.encode())


def write_attempts(output: str, run: str, records: Iterable[UnitRecord]) -> None:
    """Writes down which attempt of which run wrote each unit, beside run.json."""
    found = {
        record.result.unit_id: {"run": record.by.run, "attempt": record.by.attempt}
        for record in records
    }
    record = {"run": run, "attempts": found}
    data = json.dumps(record, indent=2, sort_keys=True) + "\n"
    writing.write_atomically(uris.join(output, ATTEMPTS_JSON), data.encode())


def mark_success(output: str) -> None:
    """Writes `_SUCCESS`: the last file of a run whose counts add up."""
    writing.write_atomically(uris.join(output, SUCCESS), b"")


def remove_success(output: str) -> None:
    """Takes `_SUCCESS` away while a run is at work again."""
    uri = uris.join(output, SUCCESS)
    if listing.exists(uri):
        writing.remove(uri)
