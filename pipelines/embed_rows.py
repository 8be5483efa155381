"""Embeds rows: images and captions in, scored rows and rejects out.

The part of the main job that people with pipelines of their own want: it needs no manifest and
writes no files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from pipelines.decode import DecodedImage, DecodeLimits, ImageDecoder, decode_image
from pipelines.encode import ClipHandler
from pipelines.fetch import FetchPolicy, fetch_image
from pipelines.isolation import decode_isolated
from pipelines.records import Example, ModelInput, Row
from pipelines.run_ahead import WINDOW, RunAhead, Step
from pipelines.score import ScorePairs


@dataclass(eq=False)
class EmbedRows(beam.PTransform):
    """Fetches, decodes, encodes and scores rows.

    All of it stays in one fused stage: pixels are never shuffled, and pictures are decoded in
    threads ahead of the encoder.

    Consumes: `Row`, in the global window.
    Produces: a dict with `Scored` under `scored` and `Reject` under `rejects`; every row comes out
        of exactly one of them.
    Counters: those of `RunAhead` (`rows`, `rejects`, `wait_usec`, `fetch_usec`, `decode_usec`,
        `tokenize_usec`) and of Beam's `RunInference`.

    Attributes:
        handler: of one model or several.
        preprocesses, tokenizers: one for each model, in the handler's order.
        isolate_decoding: whether images are decoded in processes of their own, so that a native
            crash or a hang costs one row and not the worker.
    """

    handler: ClipHandler
    preprocesses: tuple[Preprocess, ...]
    tokenizers: tuple[Tokenizer, ...]
    fetch_policy: FetchPolicy = FetchPolicy()
    decode_limits: DecodeLimits = DecodeLimits()
    isolate_decoding: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done with each row before it is encoded."""
        decoder = decode_isolated if self.isolate_decoding else decode_image
        decode = Decode(self.preprocesses, self.decode_limits, decoder)
        return (
            Step("fetch", _Fetch(self.fetch_policy)),
            # Isolated, the work is done in another process, so this thread's time tells nothing.
            Step("decode", decode, computes=not self.isolate_decoding),
            Step("tokenize", Tokenize(self.tokenizers), computes=True),
        )

    @property
    def window(self) -> int:
        """Rows in flight: while one batch is encoded, the next one gets ready."""
        return max(WINDOW, 2 * self.handler.batch_size)

    def expand(self, rows: beam.PCollection) -> dict[str, beam.PCollection]:
        prepared = rows | "Prepare" >> RunAhead(self.steps, self.window)
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
class Decode:
    """Encoded image bytes -> what is known of them, and the pixels for each model."""

    preprocesses: tuple[Preprocess, ...]
    limits: DecodeLimits
    decoder: ImageDecoder = decode_image

    def __call__(self, row: Row, data: bytes) -> tuple[str, DecodedImage]:
        image = self.decoder(data, self.preprocesses, self.limits)
        return hashlib.sha256(data).hexdigest(), image


@dataclass(frozen=True)
class Tokenize:
    """A row and its decoded image -> example; a caption is tokenised once for equal tokenizers."""

    tokenizers: tuple[Tokenizer, ...]

    def __call__(self, row: Row, decoded: tuple[str, DecodedImage]) -> Example:
        sha256, image = decoded
        distinct = {tokenizer.identity: tokenizer for tokenizer in self.tokenizers}
        found = {name: t.tokenize_row(row.text or "") for name, t in distinct.items()}
        return Example(
            row=replace(row, image_bytes=None),
            inputs=tuple(
                ModelInput(pixels, *found[tokenizer.identity])
                for pixels, tokenizer in zip(image.pixels, self.tokenizers, strict=True)
            ),
            original_width=image.original_width,
            original_height=image.original_height,
            sha256=sha256,
        )
