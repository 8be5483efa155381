"""Exact nearest rows: every embedding is looked at once, and no more than k rows are kept."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.engine.per_file import Workers, over_files
from pipelines.output.scored_tables import (
    ROW_COLUMNS,
    ScoredRow,
    ScoredTables,
    embedding_matrix,
    row_count,
    rows_at,
)


def nearest_rows(
    tables: ScoredTables,
    query: np.ndarray,
    top_k: int,
    options: Workers | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> list[ScoredRow]:
    """Returns the rows whose image embedding has the largest cosine to `query`, largest first.

    Equal ones are ordered by uid, so that the answer does not depend on files or batches.

    Args:
        query: [dim] float32, L2-normalised.
        options: slots or workers of Beam that are to search; None for this process.
        progress: called with the number of rows of each file.
    """
    best: list[ScoredRow] = []
    found = over_files(partial(_nearest_of_file, tables, query, top_k), tables.embeddings, options)
    for uri, rows in zip(tables.embeddings, found, strict=True):
        best = heapq.nsmallest(top_k, best + rows, key=rank)
        progress(row_count([uri]))
    return best


def _nearest_of_file(
    tables: ScoredTables, query: np.ndarray, top_k: int, uri: str
) -> list[ScoredRow]:
    best: list[ScoredRow] = []
    for batch in tables.batches(uri, (*ROW_COLUMNS, "image_embedding")):
        floor = best[-1].similarity if len(best) == top_k else -np.inf
        best = heapq.nsmallest(top_k, best + _candidates(batch, query, top_k, floor), key=rank)
    return best


def _candidates(
    batch: pa.RecordBatch, query: np.ndarray, top_k: int, floor: float
) -> list[ScoredRow]:
    """Takes the best of a batch, with all that tie with the last of them."""
    scores = embedding_matrix(batch.column("image_embedding")) @ query
    if len(scores) > top_k:
        floor = max(floor, np.partition(scores, -top_k)[-top_k])
    return rows_at(batch, np.flatnonzero(scores >= floor), scores)


def rank(row: ScoredRow) -> tuple[float, str, str, int]:
    """Returns what rows are ordered by: the similarity, and the uid where that is equal."""
    return -row.similarity, row.uid, row.source, row.source_row
