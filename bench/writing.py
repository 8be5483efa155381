"""Rows a second that one core turns into Parquet: scored rows to blocks, blocks to a file."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.blocks import pack, unpacked
from pipelines.records import Embedded, Row, Scored, Unit, UnitCount, Vectors
from pipelines.tables import scored_batch
from pipelines.write import BLOCK_ROWS, OutputLayout, write_unit
from schemas.embeddings import embeddings_schema
from schemas.manifest import Columns
from schemas.rejects import rejects_schema

ROWS = 20_000


def writing_rate(folder: Path, dim: int, rounds: int) -> float:
    """Returns rows per second of processor time, with both embeddings of `dim`; the median."""
    rows = _rows(dim)
    layout = OutputLayout(str(folder), embeddings_schema(dim), rejects_schema(), {})
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            began = time.process_time()
            _write(layout, rows, scratch)
            seconds.append(time.process_time() - began)
    return ROWS / statistics.median(seconds)


def _write(layout: OutputLayout, rows: Sequence[Scored], scratch: str) -> None:
    blocks = []
    for first in range(0, len(rows), BLOCK_ROWS):
        batch = scored_batch(rows[first : first + BLOCK_ROWS], layout.embeddings, layout.models)
        blocks.append(pack(batch, scratch))
    unit = Unit("unit", "/m.jsonl", "jsonl", Columns(), "/", 0, len(rows))
    scored: list[pa.RecordBatch] = list(unpacked(blocks, layout.embeddings))
    write_unit(layout, [UnitCount(unit, len(rows))], scored, [])


def _rows(dim: int) -> list[Scored]:
    values = np.random.default_rng(0).standard_normal((ROWS, dim)).astype(np.float32)
    vectors = values / np.linalg.norm(values, axis=1, keepdims=True)
    return [
        Scored(
            Embedded(_row(n), (Vectors(vector, vector, False),), 640, 480, f"{n:064x}"),
            (0.3,),
        )
        for n, vector in enumerate(vectors)
    ]


def _row(number: int) -> Row:
    url = f"images/{number:09d}.jpg"
    return Row("unit", f"{number:032x}", "/m.jsonl", number, url, f"a red dress, size {number}")
