"""Scores each image against its own caption."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
from apache_beam import pvalue

from pipelines.records import Embedded, Reject, Scored

REJECTS = "rejects"


def score(embedded: Embedded) -> Scored:
    """Returns the row with its cosine similarity, computed in float32."""
    similarity = np.dot(embedded.image_embedding, embedded.text_embedding)
    return Scored(embedded, float(np.clip(similarity, -1, 1)))  # rounding may exceed 1 by an ulp


class ScorePairs(beam.PTransform):
    """Scores embedded rows and sets rejected ones aside.

    Consumes: `Embedded` and `Reject`, as the encoder returns them.
    Produces: `Scored` under `scored`, `Reject` under `rejects`.
    Counters: none of its own.
    """

    def expand(self, encoded: beam.PCollection) -> pvalue.DoOutputsTuple:
        return encoded | "Score" >> beam.ParDo(_Score()).with_outputs(REJECTS, main="scored")


class _Score(beam.DoFn):
    def process(self, record: Embedded | Reject) -> Iterator[Scored | pvalue.TaggedOutput]:
        if isinstance(record, Reject):
            yield pvalue.TaggedOutput(REJECTS, record)
        else:
            yield score(record)
