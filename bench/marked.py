"""Runs `embed` and notes when each batch has been encoded."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from bench.quiet import embed_quietly
from clip_core.loading import load
from pipelines.encoding import handler
from pipelines.encoding.encoded_batch import Encoded, RowsOfBatch
from pipelines.records import Vectors


class Mark(NamedTuple):
    """A batch that has been encoded.

    Attributes:
        at: seconds since the epoch.
        cpu: processor seconds of this process until then.
        rows: of the batch.
    """

    at: float
    cpu: float
    rows: int


@lru_cache(maxsize=1)
def _dim() -> int:
    return load("tiny").clip.config.embed_dim


def _unencoded(rows: RowsOfBatch) -> Encoded:
    vectors = np.zeros((len(rows), _dim()), np.float32)
    vectors[:, 0] = 1
    return Encoded((Vectors(vectors, vectors, rows.truncated[0]),), {})


def embed_marked(
    manifest: str, output: str, rows_per_unit: int, has_model: bool = True
) -> list[Mark]:
    """Embeds with the smallest model, scores only.

    Args:
        has_model: whether its encoders run; without, images are fetched and decoded, no more.

    Raises:
        SystemExit: if the run fails.
    """
    marks: list[Mark] = []
    encode = handler.encode_rows

    def marked(rows: Any, *arguments: Any) -> Any:
        found = encode(rows, *arguments) if has_model else _unencoded(rows)
        marks.append(Mark(time.time(), time.process_time(), len(rows)))
        return found

    argv = ["--manifest", manifest, "--output", output, "--model", "tiny", "--overwrite"]
    argv += ["--rows_per_unit", str(rows_per_unit), "--scores_only"]
    handler.encode_rows = marked  # type: ignore[assignment]
    try:
        embed_quietly(argv)
    finally:
        handler.encode_rows = encode
    return marks
