"""The nearest rows without copies of an image: exact, in passes of bounded memory.

A row is a copy if its image is that of a row which is shown and nearer to what was asked. A pass
takes the nearest rows of all that are left, and decides on each of them in order; copies of what is
shown are left out of the next pass, as is what was decided on. So each pass shows one row more at
least, and one or two passes do unless the nearest rows are copies of many images.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.engine.per_file import Workers, over_files
from pipelines.output.scored_tables import (
    ROW_COLUMNS,
    ScoredTables,
    embedding_matrix,
)
from pipelines.queries.nearest import Rank, rank
from pipelines.queries.scored_rows import ScoredRow, rows_at

EXACT, NEAR = KINDS = ("exact", "near")
NEAR_COSINE = 0.95
LEAST_TAKEN = 256


class Candidate(NamedTuple):
    """A row and its image embedding [dim] float32."""

    row: ScoredRow
    vector: np.ndarray


@dataclass(frozen=True)
class Shown:
    """Rows that are shown, in their order.

    Attributes:
        kind: `exact`, where copies have one sha256, or `near`, where their images have a cosine of
            at least 0.95.
    """

    kind: str
    candidates: tuple[Candidate, ...] = ()

    def has_copy_of(self, sha256: Sequence[str | None], vectors: np.ndarray) -> np.ndarray:
        """Returns [rows] bool: which rows are copies of one that is shown.

        Args:
            vectors: [rows, dim] float32.
        """
        if not self.candidates:
            return np.zeros(len(vectors), bool)
        if self.kind == EXACT:
            known = {shown.row.sha256 for shown in self.candidates} - {None}
            return np.fromiter((digest in known for digest in sha256), bool, len(vectors))
        own = np.stack([shown.vector for shown in self.candidates])
        return (vectors @ own.T >= np.float32(NEAR_COSINE)).any(axis=1)

    def with_more(self, candidates: Sequence[Candidate], top_k: int) -> Shown:
        """Shows those that are no copies, in their order, until there are so many."""
        if not candidates:
            return self
        digests = [candidate.row.sha256 for candidate in candidates]
        vectors = np.stack([candidate.vector for candidate in candidates])
        is_copy, more = self.has_copy_of(digests, vectors), list(self.candidates)
        for place, candidate in enumerate(candidates):
            if len(more) < top_k and not is_copy[place]:
                more.append(candidate)
                is_copy |= Shown(self.kind, (candidate,)).has_copy_of(digests, vectors)
        return Shown(self.kind, tuple(more))


@dataclass(frozen=True)
class _Pass:
    """What one pass looks for.

    Attributes:
        count: rows that it takes.
        behind: the last row that was decided on; None in the first pass.
    """

    tables: ScoredTables
    query: np.ndarray
    count: int
    shown: Shown
    behind: ScoredRow | None


def distinct_rows(
    tables: ScoredTables,
    query: np.ndarray,
    top_k: int,
    kind: str,
    options: Workers | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> list[ScoredRow]:
    """Returns the nearest rows, one for each image, nearest first; fewer only where there are none.

    Memory: `max(2 * top_k, 256)` rows with their embeddings, twice, and one batch. Rows without a
    sha256 have no exact copies.

    Args:
        query: [dim] float32, L2-normalised.
        kind: `exact` or `near`, see `Shown`.
        options: slots or workers of Beam that are to search; None for this process.
        progress: called with the number of rows of each file, in the first pass.
    """
    count = max(2 * top_k, LEAST_TAKEN)
    shown, behind = Shown(kind), None
    while True:
        one = _Pass(tables, query, count, shown, behind)
        best: list[Candidate] = []
        found = over_files(partial(_taken_of_file, one), tables.embeddings, options)
        for uri, candidates in zip(tables.embeddings, found, strict=True):
            best = heapq.nsmallest(count, best + candidates, key=_rank)
            if behind is None:
                progress(tables.rows_of([uri]))
        shown = shown.with_more(best, top_k)
        if len(shown.candidates) == top_k or len(best) < count:
            return [candidate.row for candidate in shown.candidates]
        behind = best[-1].row


def _taken_of_file(one: _Pass, uri: str) -> list[Candidate]:
    best: list[Candidate] = []
    for batch in one.tables.batches(uri, (*one.tables.had(ROW_COLUMNS), "image_embedding")):
        floor = best[-1].row.similarity if len(best) == one.count else -np.inf
        best = heapq.nsmallest(one.count, [*best, *_candidates(one, batch, floor)], key=_rank)
    return best


def _candidates(one: _Pass, batch: pa.RecordBatch, floor: float) -> Iterator[Candidate]:
    """Yields the best of a batch that are left, with all that tie with the last of them."""
    vectors = embedding_matrix(batch.column("image_embedding"))
    scores = vectors @ one.query
    left = ~one.shown.has_copy_of(batch.column("sha256").to_pylist(), vectors)
    if one.behind is not None:
        left &= scores <= one.behind.similarity
    if np.count_nonzero(left) > one.count:
        floor = max(floor, np.partition(scores[left], -one.count)[-one.count])
    places = np.flatnonzero(left & (scores >= floor))
    for place, row in zip(places, rows_at(batch, places, scores), strict=True):
        if one.behind is None or rank(row) > rank(one.behind):
            yield Candidate(row, vectors[place].copy())


def _rank(candidate: Candidate) -> Rank:
    return rank(candidate.row)
