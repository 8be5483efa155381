"""Runs that are made of other runs: fewer rows, more columns, the same files, counts and marks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.output.layout import EMBEDDINGS, FINGERPRINT_KEY, REJECTS, RUN_JSON, SUCCESS
from pipelines.output.parquet import write_parquet
from pipelines.output.scored_tables import ScoredTables, ScoredTablesError, file_schema
from pipelines.output.whole_runs import check_apart
from pipelines.storage import listing, uris, writing

OUTPUTS = (SUCCESS, RUN_JSON, EMBEDDINGS, REJECTS)  # the mark goes first, should it be replaced
GROUP_BYTES = 16 << 20  # warehouses ask for 16 MiB and more
DERIVED_KEY = b"clip_beam.derived"  # in the metadata of every file: the command that wrote it


def check_output(tables: ScoredTables, output: str) -> None:
    """Makes sure that no run of `embed` is lost where a derived one is to be written.

    Raises:
        ScoredTablesError: if the output is the run that is read, or holds what `embed` wrote.
    """
    check_apart(tables, output)
    found = listing.list_files(uris.join(output, EMBEDDINGS))
    first = next((uri for uri in found if uri.endswith(".parquet")), None)
    metadata = (file_schema(first).metadata or {}) if first else {}
    if FINGERPRINT_KEY in metadata and DERIVED_KEY not in metadata:
        raise ScoredTablesError(
            f"{output!r} holds a run that `embed` wrote; name another directory with `output`"
        )


def write_table(
    output: str, uri: str, command: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Writes what becomes of one file of the embeddings table, under its own name.

    The counts of its unit are no part of it, so that `embed` never takes it for a finished unit.

    Args:
        command: that writes it.
        schema: of the batches, with the metadata of the file at `uri`.
    """
    metadata = {**(schema.metadata or {}), DERIVED_KEY: command.encode()}
    target = uris.join(output, EMBEDDINGS, uris.base_name(uri))
    write_parquet(target, schema.with_metadata(metadata), batches, GROUP_BYTES)
    pa.default_memory_pool().release_unused()  # else what was freed piles up from file to file


def finish(
    tables: ScoredTables,
    output: str,
    files: Sequence[str],
    counts: Mapping[str, int],
    about: Mapping[str, Any],
) -> None:
    """Writes run.json and, last, `_SUCCESS`.

    Args:
        tables: the run that was read; what its run.json says of models and images holds here too.
        files: of the embeddings table.
        counts: `rows_read`, of the manifest, `embedded` and `rejected`.
        about: further entries of run.json.
    """
    told = {name: tables.record[name] for name in ("options", "versions") if name in tables.record}
    record = {
        **told,
        **about,
        "counts": {
            "units": len(files),
            "records": counts["embedded"] + counts["rejected"],
            **counts,
            "rejects_by_reason": tables.counts.get("rejects_by_reason", {})
            if counts["rejected"]
            else {},
        },
        "fingerprint": dict(tables.fingerprint),
    }
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    writing.write_atomically(uris.join(output, RUN_JSON), text.encode())
    writing.write_atomically(uris.join(output, SUCCESS), b"")
