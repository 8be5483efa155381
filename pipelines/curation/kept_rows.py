"""Writes the rows that a filter kept, as a run: in files named as those they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.curation.duplicates.images import Images
from pipelines.curation.kept_mask import Part, Selection
from pipelines.engine.per_file import Workers, over_files
from pipelines.exports import derived_runs
from pipelines.exports.uid_subset import is_hex, packed, write_subset
from pipelines.output.layout import KEPT
from pipelines.output.parquet import FILES_WRITTEN
from pipelines.output.run_json import steps_of
from pipelines.output.scored_tables import ScoredTables, file_schema
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
        rows = 0

        def uids() -> Iterator[bytes | str]:
            nonlocal rows
            write = partial(_write_part, uris.absolute(self.output))
            for written in over_files(write, parts, workers, FILES_WRITTEN):
                rows += written.rows
                yield written.uids

        told = _write_uids(uids(), uris.join(self.output, UIDS))
        counts = {"rows_read": rows, "embedded": self.selection.rows, "rejected": 0}
        about = {"kept_from": self._kept_from(options)}
        derived_runs.finish(self.tables, self.output, [part.uri for part in parts], counts, about)
        return [told, f"output     {redact(self.output)}"]

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
    return [("read", embedded + tables.rows_of(tables.rejects)), *selection.steps]


class _Written(NamedTuple):
    """What was written of a file.

    Attributes:
        rows: of the manifest that its rows are of; several captions of an image are one.
        uids: packed, or the first that is not 32 hex digits.
    """

    rows: int
    uids: bytes | str


def _write_part(output: str, part: Part) -> _Written:
    """Writes what is kept of a file."""
    schema, images, rows = file_schema(part.uri), Images(), 0
    uids: list[str] = []

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for numbers, batch in part.batches(schema.names):
            rows += int((images.of_rows(numbers, batch) == numbers).sum())
            uids.extend(batch["uid"].to_pylist())
            yield batch

    derived_runs.write_table(output, part.uri, "filter", schema, batches())
    foreign = next((uid for uid in uids if not is_hex(uid)), None)
    return _Written(rows, packed(uids) if foreign is None else foreign)


def _write_uids(uids: Iterator[bytes | str], target: str) -> str:
    try:
        return f"uids       {write_subset(target, _packed(uids))} in {UIDS}"
    except _ForeignUid as error:
        return f"uids       no {UIDS}: expected 32 hex digits as in DataComp, got {error.uid!r}"


class _ForeignUid(Exception):
    """A uid that is not 32 hex digits."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid


def _packed(uids: Iterator[bytes | str]) -> Iterator[bytes]:
    """Yields the uids of each file; of whatever they are, all files are written by then."""
    foreign = None
    for of_file in uids:
        if isinstance(of_file, bytes):
            yield of_file
        else:
            foreign = foreign or of_file
    if foreign is not None:
        raise _ForeignUid(foreign)
