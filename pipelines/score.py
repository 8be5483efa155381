"""Scores each image against its own caption."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
from apache_beam import pvalue

from pipelines.records import Embedded, Reject, Scored

REJECTS = "rejects"


def score(embedded: Embedded) -> Scored:
    """Returns the row with the cosine similarity by each model, computed in float32."""
    cosines = [np.dot(found.image_embedding, found.text_embedding) for found in embedded.vectors]
    # Rounding may exceed 1 by an ulp.
    return Scored(embedded, tuple(float(np.clip(cosine, -1, 1)) for cosine in cosines))


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
