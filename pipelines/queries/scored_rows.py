"""A few rows of a run, to be shown: who they are, and how near to what was asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines.output.scored_tables import ROW_COLUMNS


@dataclass(frozen=True, order=True)
class ScoredRow:
    """A row without its embeddings; `similarity` is to its own caption, or to what was asked."""

    similarity: float
    uid: str
    source: str
    source_row: int
    caption_index: int
    url: str | None = field(default=None, compare=False)
    text: str | None = field(default=None, compare=False)
    sha256: str | None = field(default=None, compare=False)


def rows_at(
    batch: pa.RecordBatch, indices: Iterable[int], similarity: np.ndarray | None = None
) -> list[ScoredRow]:
    """Takes rows out of a batch with those of `ROW_COLUMNS` that there are.

    Args:
        similarity: [rows of the batch], or None for its own column.
    """
    chosen = np.fromiter(indices, np.int64)
    if similarity is None:
        similarity = batch.column("similarity").to_numpy(zero_copy_only=False)
    names = [name for name in ROW_COLUMNS if name in batch.schema.names]
    rows = batch.select(names).take(pa.array(chosen)).to_pylist()
    scores = similarity[chosen].tolist()
    return [ScoredRow(score, **row) for score, row in zip(scores, rows, strict=True)]
