"""Turns logits into the labels table: the likeliest labels of each row and their probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from clip_core.zero_shot import softmax
from pipelines.output.parquet import parquet_bytes
from schemas.labels import LABELLED_NAMES, LABELS_SCHEMA


def labels_batch(
    batch: pa.RecordBatch, logits: np.ndarray, labels: Sequence[str], top_k: int
) -> pa.RecordBatch:
    """Returns a batch of the labels table, one row per row of `batch`, in order.

    Args:
        batch: with the columns `LABELLED_NAMES`.
        logits: [rows, labels] float32; equal ones keep the order of `labels`.
        top_k: labels to keep, at most as many as there are.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    probabilities = np.take_along_axis(softmax(logits), order, axis=1)
    offsets = pa.array(np.arange(0, order.size + 1, top_k), pa.int32())
    names = pa.array(labels, pa.string()).take(pa.array(order.reshape(-1)))
    chances = pa.array(probabilities.astype(np.float32).reshape(-1))
    lists = [pa.ListArray.from_arrays(offsets, values) for values in (names, chances)]
    keys = [batch.column(name) for name in LABELLED_NAMES]
    return pa.RecordBatch.from_arrays([*keys, *lists], schema=LABELS_SCHEMA)


def labels_file(batches: Iterable[pa.RecordBatch], metadata: Mapping[bytes, str]) -> pa.Buffer:
    """Encodes a labels table as Parquet, with page checksums as all tables have."""
    table = pa.Table.from_batches(list(batches), LABELS_SCHEMA)
    return parquet_bytes(table, metadata)
