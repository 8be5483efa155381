"""Writes the rows that a filter kept, in files named as those they came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.curation.kept_mask import Part, Selection
from pipelines.engine.per_file import over_files
from pipelines.exports.uid_subset import is_hex, write_subset
from pipelines.output.layout import EMBEDDINGS, KEPT
from pipelines.output.parquet import write_parquet
from pipelines.output.scored_tables import ScoredTables, file_schema
from pipelines.storage import listing, uris, writing
from pipelines.storage.redaction import redact

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

UIDS = "uids.npy"
FILTER_JSON = "filter.json"
OUTPUTS = (FILTER_JSON, UIDS, KEPT)


@dataclass(frozen=True)
class KeptRows:
    """What a filter kept of a run, and where it goes."""

    tables: ScoredTables
    selection: Selection
    output: str

    def write(self, options: Mapping[str, Any], beam_options: PipelineOptions | None) -> list[str]:
        """Writes the rows, their uids and, last, filter.json; returns lines for the summary.

        Files of which nothing is kept are left out.

        Args:
            options: of the filter, for filter.json.
            beam_options: of Beam, if its workers are to write the rows.

        Raises:
            ScoredTablesError, OSError: if a table cannot be read, or nothing be written.
        """
        work = partial(_write_part, self.output)
        for _ in over_files(work, self.selection.parts(), beam_options):
            pass
        uids = _write_uids(self.selection, uris.join(self.output, UIDS))
        self._write_record(options)
        return [uids, f"output     {redact(self.output)}"]

    def _write_record(self, options: Mapping[str, Any]) -> None:
        steps = [{"condition": name, "rows": rows} for name, rows in self.selection.steps]
        found = {"options": options, "steps": steps, "fingerprint": self.tables.fingerprint}
        text = json.dumps(found, indent=2, sort_keys=True) + "\n"
        writing.write_atomically(uris.join(self.output, FILTER_JSON), text.encode())


def is_kept(root: str) -> bool:
    """Tells what a filter wrote, its output directory or the rows in it, from a run."""
    home = uris.parent(root) if uris.base_name(root) == KEPT else root
    filtered = listing.exists(uris.join(home, FILTER_JSON))
    return filtered and not listing.exists(uris.join(root, EMBEDDINGS))


def _write_part(output: str, part: Part) -> None:
    target = uris.join(output, KEPT, uris.base_name(part.uri))
    schema = file_schema(part.uri)
    write_parquet(target, schema, (batch for _, batch in part.batches(schema.names)))


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
