"""Scores each image against its own caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from pipelines.engine import failures
from pipelines.records import Chunk, Vectors
from schemas.pairs import BOTH

if TYPE_CHECKING:
    from pipelines.probes.head import Head


def similarity(vectors: Vectors) -> np.ndarray:
    """Returns the cosine of image and text, [rows] float32 in [-1, 1]."""
    cosines = np.einsum("ij,ij->i", *vectors.halves)
    return np.clip(cosines, -1, 1)  # rounding may exceed 1 by an ulp


def _with_heads(chunk: Chunk, heads: Sequence[tuple[int, Head]]) -> pa.RecordBatch:
    rows = chunk.rows
    for index, head in heads:
        images = chunk.vectors[index].image
        if images is None:
            raise ValueError("heads score images, and captions alone were embedded; leave them out")
        columns = head.columns(images)
        for field, column in zip(head.fields, columns, strict=True):
            rows = rows.append_column(field, column)
    return rows


class ScorePairs(beam.PTransform):
    """Scores encoded chunks.

    Consumes: `Chunk` with vectors, as the encoder returns it.
    Produces: the same with similarities, where there are both halves; the columns of heads are
        added to the rows.
    Counters: in the namespace `rejects`, for each reason the rows that were rejected for it, in
        this stage or before.

    Args:
        run: whose failure ends this stage; "" for none.
        heads: small models over image embeddings, and which of the chunk's vectors each takes.
    """

    def __init__(self, run: str = "", heads: Sequence[tuple[int, Head]] = ()) -> None:
        super().__init__()
        self._score = _Score(run, tuple(heads))

    def expand(self, encoded: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        return encoded | "Score" >> beam.ParDo(self._score).with_output_types(Chunk)


class _Score(beam.DoFn):
    def __init__(self, run: str, heads: tuple[tuple[int, Head], ...]) -> None:
        self._run, self._heads = run, heads

    def process(self, chunk: Chunk) -> Iterator[Chunk]:
        with failures.ends_the_run(self._run):
            pairs = [found for found in chunk.vectors if found.pairs == BOTH]
            chunk.similarities = tuple(map(similarity, pairs))
            chunk.rows = _with_heads(chunk, self._heads)
            for counted in chunk.rejects.column("reason").value_counts().to_pylist():
                Metrics.counter("rejects", counted["values"]).inc(counted["counts"])
        yield chunk
