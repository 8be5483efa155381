"""Scores each image against its own caption."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from pipelines.engine import failures
from pipelines.records import Chunk, Vectors


def similarity(vectors: Vectors) -> np.ndarray:
    """Returns the cosine of image and text, [rows] float32 in [-1, 1]."""
    cosines = np.einsum("ij,ij->i", vectors.image, vectors.text)
    return np.clip(cosines, -1, 1)  # rounding may exceed 1 by an ulp


class ScorePairs(beam.PTransform):
    """Scores encoded chunks.

    Consumes: `Chunk` with vectors, as the encoder returns it.
    Produces: the same with similarities.
    Counters: in the namespace `rejects`, for each reason the rows that were rejected for it, in
        this stage or before.

    Args:
        run: whose failure ends this stage; "" for none.
    """

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = run

    def expand(self, encoded: beam.PCollection[Chunk]) -> beam.PCollection[Chunk]:
        return encoded | "Score" >> beam.ParDo(_Score(self._run)).with_output_types(Chunk)


class _Score(beam.DoFn):
    def __init__(self, run: str) -> None:
        self._run = run

    def process(self, chunk: Chunk) -> Iterator[Chunk]:
        with failures.ends_the_run(self._run):
            chunk.similarities = tuple(similarity(found) for found in chunk.vectors)
            for counted in chunk.rejects.column("reason").value_counts().to_pylist():
                Metrics.counter("rejects", counted["values"]).inc(counted["counts"])
        yield chunk
