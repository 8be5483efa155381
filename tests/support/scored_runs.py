"""Runs as `embed` leaves them, and commands that read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import cli, export
from pipelines.output.scored_tables import FINGERPRINT_KEY
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema


def write_scored(
    root: Path,
    units: list[list[dict]],
    *,
    rejects=(),
    record=None,
    fingerprint=None,
    kept=(),
    dim=4,
    whole=True,
) -> Path:
    """Writes tables as `embed` does, a file for each list of rows; fields left out have defaults.

    A run that is not whole has no run.json unless there is a `record`, and no _SUCCESS.
    """
    defaults = {
        "source": "/data/manifest.jsonl",
        "caption_index": 0,
        "text": "a red circle",
        "original_width": 80,
        "original_height": 70,
        "similarity": 0.5,
        "text_truncated": False,
        "image_embedding": np.eye(dim, dtype=np.float32)[0],
        "text_embedding": np.eye(dim, dtype=np.float32)[0],
    }
    metadata = {FINGERPRINT_KEY: json.dumps(fingerprint or {"checkpoint_sha256": "c0ffee"})}
    schema = embeddings_schema(dim, kept=kept).with_metadata(metadata)
    (root / "embeddings").mkdir(parents=True)
    number = 0
    for index, unit in enumerate(units):
        rows = []
        for row in unit:
            rows.append(defaults | {"uid": f"row-{number}", "source_row": number} | row)
            number += 1
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, root / "embeddings" / f"unit-{index}.parquet", row_group_size=50)
    if rejects:
        (root / "rejects").mkdir()
        rows = [
            defaults | {"uid": f"bad-{n}", "source_row": number + n, "stage": "decode"} | row
            for n, row in enumerate(rejects)
        ]
        table = pa.Table.from_pylist(rows, rejects_schema())
        pq.write_table(table, root / "rejects" / "unit-0.parquet")
    counts = {"embedded": number, "rejected": len(rejects), "rows_read": number + len(rejects)}
    if whole:
        (root / "run.json").write_text(json.dumps({"counts": counts} | (record or {})))
        (root / "_SUCCESS").touch()
    elif record is not None:
        (root / "run.json").write_text(json.dumps(record))
    return root


def filtered(root, *flags):
    """Runs the command on ROOT/run; returns its exit status."""
    return cli.main(["filter", "--input", str(root / "run"), *flags])


def exported(run, layout, *flags):
    """Exports a run beside it; returns the directory."""
    output = run.parent / layout
    argv = ["--input", str(run), "--output", str(output), "--format", layout, *flags]
    assert export.main(argv) == 0
    return output


def refused(capsys, run, *flags):
    """Returns the one sentence in which an export is refused."""
    status = export.main(["--input", str(run), "--output", str(run.parent / "out"), *flags])
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1
    return error


def make_models(run, names):
    """Gives the run the columns of several models."""
    for path in (run / "embeddings").glob("*.parquet"):
        table = pq.read_table(path)
        own = ["similarity", "text_truncated", "image_embedding", "text_embedding"]
        kept = table.drop_columns(own)
        for name in names:
            for column in own:
                kept = kept.append_column(f"{name}_{column}", table[column])
        pq.write_table(kept, path)
