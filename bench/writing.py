"""Rows a second that one core turns into Parquet: scored chunks to the files of a unit."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.engine.chunks import CHUNK_ROWS, make_chunk
from pipelines.output.layout import OutputLayout
from pipelines.output.unit_writer import UnitWriter
from pipelines.records import Chunk, End, Row, Unit, Vectors
from schemas.embeddings import IMAGE_FIELDS, embeddings_schema
from schemas.manifest import Columns
from schemas.rejects import rejects_schema

ROWS = 20_000
UNIT = Unit("unit", "/m.jsonl", "jsonl", Columns(), "/", 0, ROWS)


def writing_rate(folder: Path, dim: int, rounds: int) -> float:
    """Returns rows per second of processor time, with both embeddings of `dim`; the median."""
    layout = OutputLayout(str(folder), embeddings_schema(dim), rejects_schema(), {})
    seconds = []
    for _ in range(rounds):
        chunks = _chunks(dim)
        with tempfile.TemporaryDirectory() as output:
            began = time.process_time()
            _write(replace(layout, root=output), chunks)
            seconds.append(time.process_time() - began)
    return ROWS / statistics.median(seconds)


def _write(layout: OutputLayout, chunks: Sequence[Chunk]) -> None:
    writer = UnitWriter(layout, UNIT, "attempt")
    for chunk in chunks:
        writer.add(chunk)
    writer.close()
    writer.publish(lambda: None)


def _chunks(dim: int) -> list[Chunk]:
    values = np.random.default_rng(0).standard_normal((ROWS, dim)).astype(np.float32)
    vectors = values / np.linalg.norm(values, axis=1, keepdims=True)
    firsts = range(0, ROWS, CHUNK_ROWS)
    return [_chunk(n, first, vectors, len(firsts)) for n, first in enumerate(firsts)]


def _chunk(number: int, first: int, vectors: np.ndarray, chunks: int) -> Chunk:
    rows = [_row(n) for n in range(first, min(first + CHUNK_ROWS, ROWS))]
    end = End(chunks, ROWS, ROWS) if number == chunks - 1 else None
    chunk = make_chunk(rows, unit=UNIT, number=number, end=end)
    known = ([640] * len(rows), [480] * len(rows), [f"{row.source_row:064x}" for row in rows])
    arrays = [pa.array(v, f.type) for v, f in zip(known, IMAGE_FIELDS, strict=True)]
    chunk.known = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(IMAGE_FIELDS))
    own = vectors[first : first + len(rows)]
    chunk.vectors = (Vectors(own, own, np.zeros(len(rows), bool)),)
    chunk.similarities = (np.full(len(rows), 0.3, np.float32),)
    return chunk


def _row(number: int) -> Row:
    url = f"images/{number:09d}.jpg"
    return Row(f"{number:032x}", "/m.jsonl", number, url, f"a red dress, size {number}")
