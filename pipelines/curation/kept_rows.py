"""Writes the rows that a filter kept, as a run: in files named as those they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.curation.duplicates.images import Images
from pipelines.curation.kept_mask import Part, Selection
from pipelines.engine.per_file import Workers, over_files
from pipelines.exports import derived_runs
from pipelines.exports.uid_subset import is_hex, write_subset
from pipelines.output.layout import KEPT
from pipelines.output.run_json import steps_of
from pipelines.output.scored_tables import ScoredTables, file_schema, row_count
from pipelines.storage import uris
from pipelines.storage.redaction import redact

UIDS = "uids.npy"
# The last two are what earlier releases wrote.
OUTPUTS = (*derived_runs.OUTPUTS, UIDS, KEPT, "filter.json")


@dataclass(frozen=True)
class KeptRows:
    """What a filter kept of a run, and where it goes."""

    tables: ScoredTables
    selection: Selection
    output: str

    def write(self, options: Mapping[str, Any], workers: Workers | None) -> list[str]:
        """Writes the rows, their uids and, last, the run's record; returns lines for the summary.

        Files of which nothing is kept are left out.

        Args:
            options: of the filter, for run.json.
            workers: that are to write the rows; None for this process.

        Raises:
            ScoredTablesError, OSError: if a table cannot be read, or nothing be written.
        """
        parts = self.selection.parts()
        rows = sum(over_files(partial(_write_part, self.output), parts, workers))
        uids = _write_uids(self.selection, uris.join(self.output, UIDS))
        counts = {"rows_read": rows, "embedded": self.selection.rows, "rejected": 0}
        about = {"kept_from": self._kept_from(options)}
        derived_runs.finish(self.tables, self.output, [part.uri for part in parts], counts, about)
        return [uids, f"output     {redact(self.output)}"]

    def _kept_from(self, options: Mapping[str, Any]) -> dict[str, Any]:
        before = self.tables.record.get("kept_from")
        own = steps_here(self.tables, self.selection)
        return {
            "run": redact(self.tables.root),
            "options": options,
            "steps": [{"condition": name, "rows": rows} for name, rows in own],
            **({"kept_from": before} if before else {}),
        }


def steps_here(tables: ScoredTables, selection: Selection) -> list[tuple[str, int]]:
    """Returns the conditions of this filter; of the first one also the rows that were read."""
    if steps_of(tables.record):
        return selection.steps[1:]
    embedded = selection.steps[0][1]
    return [("read", embedded + row_count(tables.rejects)), *selection.steps]


def _write_part(output: str, part: Part) -> int:
    """Writes what is kept of a file; returns of how many rows of the manifest that is."""
    schema, images, rows = file_schema(part.uri), Images(), 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for numbers, batch in part.batches(schema.names):
            rows += int((images.of_rows(numbers, batch) == numbers).sum())
            yield batch

    derived_runs.write_table(output, part.uri, "filter", schema, batches())
    return rows


def _write_uids(selection: Selection, target: str) -> str:
    def uids() -> Iterator[list[str]]:
        for part in selection.parts():
            for _, batch in part.batches(["uid"]):
                yield batch.column(0).to_pylist()

    for batch in uids():
        foreign = next((uid for uid in batch if not is_hex(uid)), None)
        if foreign is not None:
            return f"uids       no {UIDS}: expected 32 hex digits as in DataComp, got {foreign!r}"
    return f"uids       {write_subset(target, uids())} in {UIDS}"
