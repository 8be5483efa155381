"""Embeds rows: images and captions in, scored rows and rejects out.

The part of the main job that people with pipelines of their own want: it needs no manifest and
writes no files.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from pipelines.decode import DecodeLimits, ImageDecoder, decode_example, decode_image
from pipelines.encode import ClipHandler
from pipelines.fetch import FetchPolicy, fetch_image
from pipelines.isolation import decode_isolated
from pipelines.records import Example, Row
from pipelines.run_ahead import RunAhead, Step
from pipelines.score import ScorePairs

# More threads fetch than decode: a decoded picture may take a quarter of a gigabyte.
_CORES = threading.BoundedSemaphore(os.cpu_count() or 1)


@dataclass(eq=False)
class EmbedRows(beam.PTransform):
    """Fetches, decodes, encodes and scores rows.

    All of it stays in one fused stage: pixels are never shuffled, and pictures are decoded in
    threads ahead of the encoder.

    Consumes: `Row`.
    Produces: a dict with `Scored` under `scored` and `Reject` under `rejects`; every row comes out
        of exactly one of them.
    Counters: those of `RunAhead` (`rows`, `rejects`, `fetch_usec`, `decode_usec`) and of Beam's
        `RunInference`.

    Attributes:
        isolate_decoding: whether images are decoded in processes of their own, so that a native
            crash or a hang costs one row and not the worker.
    """

    handler: ClipHandler
    preprocess: Preprocess
    tokenizer: Tokenizer
    fetch_policy: FetchPolicy = FetchPolicy()
    decode_limits: DecodeLimits = DecodeLimits()
    isolate_decoding: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done with each row before it is encoded: fetch, then decode and tokenise."""
        decoder = decode_isolated if self.isolate_decoding else decode_image
        return (
            ("fetch", _Fetch(self.fetch_policy)),
            ("decode", _Decode(self.preprocess, self.tokenizer, self.decode_limits, decoder)),
        )

    def expand(self, rows: beam.PCollection) -> dict[str, beam.PCollection]:
        prepared = rows | "Prepare" >> RunAhead(self.steps)
        encoded = prepared.results | "Encode" >> RunInference(self.handler)
        scored = encoded | "ScorePairs" >> ScorePairs()
        rejects = (prepared.rejects, scored.rejects) | "Rejects" >> beam.Flatten()
        return {"scored": scored.scored, "rejects": rejects}


@dataclass(frozen=True)
class _Fetch:
    """Row -> encoded image bytes."""

    policy: FetchPolicy

    def __call__(self, row: Row, value: None) -> bytes:
        return fetch_image(row, self.policy)


@dataclass(frozen=True)
class _Decode:
    """Row and encoded image bytes -> example."""

    preprocess: Preprocess
    tokenizer: Tokenizer
    limits: DecodeLimits
    decoder: ImageDecoder

    def __call__(self, row: Row, data: bytes) -> Example:
        with _CORES:
            return decode_example(
                row, data, self.preprocess, self.tokenizer, self.limits, self.decoder
            )
