"""Writes the rows that a filter kept, in files named as those they came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.parquet_output import write_parquet
from pipelines.scored_tables import ScoredTables, file_schema
from pipelines.selection import Selection
from pipelines.uid_subset import is_hex, write_subset

KEPT = "kept"
UIDS = "uids.npy"
FILTER_JSON = "filter.json"
OUTPUTS = (FILTER_JSON, UIDS, KEPT)


def write_kept(
    tables: ScoredTables, selection: Selection, output: str, options: Mapping[str, Any]
) -> list[str]:
    """Writes the kept rows, their uids and, last, filter.json; returns lines for the summary.

    Files of which nothing is kept are left out.

    Raises:
        ScoredTablesError, OSError: if a table cannot be read, or nothing be written.
    """
    for index, uri in enumerate(tables.embeddings):
        batches = _batches(selection, index, tables.schema.names)
        first = next(batches, None)
        if first is not None:
            target = storage.join(output, KEPT, storage.base_name(uri))
            schema = tables.schema.with_metadata(file_schema(uri).metadata)
            write_parquet(target, schema, _chained(first, batches))
    uids = _write_uids(selection, storage.join(output, UIDS))
    record = {
        "options": options,
        "steps": [{"condition": name, "rows": rows} for name, rows in selection.steps],
        "fingerprint": tables.fingerprint,
    }
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    storage.write_atomically(storage.join(output, FILTER_JSON), text.encode())
    return [uids, f"output     {output}"]


def _batches(selection: Selection, file: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    return (batch for _, batch in selection.batches_of(file, columns))


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _write_uids(selection: Selection, target: str) -> str:
    def uids() -> Iterator[list[str]]:
        for _, batch in selection.batches(["uid"]):
            yield batch.column(0).to_pylist()

    for batch in uids():
        foreign = next((uid for uid in batch if not is_hex(uid)), None)
        if foreign is not None:
            return f"uids       no {UIDS}: expected 32 hex digits as in DataComp, got {foreign!r}"
    return f"uids       {write_subset(target, uids())} in {UIDS}"
