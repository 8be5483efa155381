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
    ScoredTables,
    embedding_matrix,
)
from pipelines.queries.scored_rows import ScoredRow, rows_at

IMAGES, CAPTIONS = "image_embedding", "text_embedding"
Rank = tuple[float, str, str, int, int]


def nearest_rows(
    tables: ScoredTables,
    query: np.ndarray,
    top_k: int,
    options: Workers | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> list[ScoredRow]:
    """Returns what `nearest_of_each` does for one query [dim]."""
    return nearest_of_each(tables, query[None], top_k, IMAGES, options, progress)[0]


def nearest_of_each(
    tables: ScoredTables,
    queries: np.ndarray,
    top_k: int,
    column: str = IMAGES,
    options: Workers | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> list[list[ScoredRow]]:
    """Returns for each query the rows whose embedding has the largest cosine to it, largest first.

    Equal ones are ordered by uid, so that the answer does not depend on files or batches.

    Args:
        queries: [queries, dim] float32, L2-normalised; the table is read once for all.
        column: `IMAGES` or `CAPTIONS`.
        options: slots or workers of Beam that are to search; None for this process.
        progress: called with the number of rows of each file.
    """
    best: list[list[ScoredRow]] = [[] for _ in queries]
    work = partial(_nearest_of_file, tables, queries, top_k, column)
    found = over_files(work, tables.embeddings, options)
    for uri, of_file in zip(tables.embeddings, found, strict=True):
        best = [_best(top_k, one + more) for one, more in zip(best, of_file, strict=True)]
        progress(tables.rows_of([uri]))
    return best


def _nearest_of_file(
    tables: ScoredTables, queries: np.ndarray, top_k: int, column: str, uri: str
) -> list[list[ScoredRow]]:
    best: list[list[ScoredRow]] = [[] for _ in queries]
    for batch in tables.batches(uri, (*tables.had(ROW_COLUMNS), column)):
        scores = embedding_matrix(batch.column(column)) @ queries.T
        for number, known in enumerate(best):
            floor = known[-1].similarity if len(known) == top_k else -np.inf
            found = _candidates(batch, np.ascontiguousarray(scores[:, number]), top_k, floor)
            best[number] = _best(top_k, known + found)
    return best


def _best(top_k: int, rows: list[ScoredRow]) -> list[ScoredRow]:
    return heapq.nsmallest(top_k, rows, key=rank)


def _candidates(
    batch: pa.RecordBatch, scores: np.ndarray, top_k: int, floor: float
) -> list[ScoredRow]:
    """Takes the best of a batch, with all that tie with the last of them."""
    if len(scores) > top_k:
        floor = max(floor, np.partition(scores, -top_k)[-top_k])
    return rows_at(batch, np.flatnonzero(scores >= floor), scores)


def rank(row: ScoredRow) -> Rank:
    """Returns what rows are ordered by: the similarity, and the uid where that is equal."""
    return -row.similarity, row.uid, row.source, row.source_row, row.caption_index
