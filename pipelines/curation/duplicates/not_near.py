"""Rows whose images are not, or almost, those of another run: so that no test is trained on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from pipelines.curation.rules import Rule
from pipelines.engine.per_file import begun, side_by_side
from pipelines.output.parquet import RowCounts
from pipelines.output.scored_tables import (
    COMPARED,
    ScoredTables,
    ScoredTablesError,
    check_columns,
    embedding_matrix,
    iterate_batches,
)
from pipelines.storage import reading
from pipelines.storage.redaction import redact
from schemas.embeddings import model_names

OWN_ROWS, OTHER_ROWS = 1024, 4096  # compared at once: 16 MB of cosines
_LOADING = threading.Lock()


@dataclass(frozen=True)
class _IsDistant:
    """A rule's function; it takes the files of the other run to a worker, and not its vectors."""

    own: str
    files: tuple[str, ...]
    states: tuple[reading.FileState, ...]
    column: str
    cosine: float

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        with _LOADING:  # else the threads of a worker would each load them
            others = _loaded(self.files, self.states, self.column)
        return ~near_any(embedding_matrix(batch[self.own]), others, self.cosine)


def not_near_rule(tables: ScoredTables, other: ScoredTables, cosine: float) -> Rule:
    """Returns the condition that no image of another run is as near as a cosine.

    Args:
        tables: of the run whose rows are kept, with its model chosen.
        other: of the run they are compared with.

    Raises:
        ScoredTablesError: if the two cannot be compared.
    """
    names = model_names(other.schema)
    try:
        chosen = tables.model_name if tables.model_name in names else None
        other = other.of_model(chosen)
    except ScoredTablesError:
        raise ScoredTablesError(
            f"expected `not_near` a run of the model that is filtered, got {redact(other.root)!r}"
            f", which has models {', '.join(names)}; choose one of them with `model_name`"
        ) from None
    own, column = (run.column("image_embedding") for run in (tables, other))
    for run, name in ((tables, own), (other, column)):
        check_columns(run.schema, [name], run.embeddings[0])
    _check_same_model(tables, other)
    name = f"no image of {redact(other.root)} within cosine {cosine}"
    states = tuple(map(reading.file_state, other.embeddings))
    return Rule(name, (own,), _IsDistant(own, other.embeddings, states, column, cosine))


def near_any(own: np.ndarray, others: np.ndarray, cosine: float) -> np.ndarray:
    """Returns [rows] bool: which vectors have a cosine of at least a value to any of the others.

    Args:
        own, others: [rows, dim] float32, L2-normalised.
    """
    near = np.zeros(len(own), bool)
    least = np.float32(cosine)
    for start in range(0, len(own), OWN_ROWS):
        block = slice(start, start + OWN_ROWS)
        for first in range(0, len(others), OTHER_ROWS):
            cosines = own[block] @ others[first : first + OTHER_ROWS].T
            near[block] |= (cosines >= least).any(axis=1)
    return near


@cache
def _loaded(
    files: tuple[str, ...], states: tuple[reading.FileState, ...], column: str
) -> np.ndarray:
    return vectors_of(files, column)


def vectors_of(files: Sequence[str], column: str) -> np.ndarray:
    """Returns [rows, dim] float32, the vectors of all files.

    Raises:
        ScoredTablesError, OSError: if a file cannot be read.
    """
    vectors, filled = np.empty((0, 0), np.float32), 0
    for batches in side_by_side(lambda uri: begun(iterate_batches(uri, [column])), files):
        for batch in batches:
            block = embedding_matrix(batch.column(0))
            if not filled:
                vectors = np.empty((sum(RowCounts().of(files)), block.shape[1]), np.float32)
            vectors[filled : filled + len(block)] = block
            filled += len(block)
    return vectors


def _check_same_model(tables: ScoredTables, other: ScoredTables) -> None:
    """Makes sure that the embeddings of two runs can be compared.

    Raises:
        ScoredTablesError: names the first difference.
    """
    own, others = (
        run.schema.field(run.column("image_embedding")).type.list_size for run in (tables, other)
    )
    if own != others:
        raise ScoredTablesError(
            f"expected `not_near` a run of the model that is filtered, with vectors of {own} "
            f"numbers, got {others} in {redact(other.root)!r}; embed it with that model"
        )
    for name in COMPARED:
        expected, got = (run.model_fingerprint.get(name) for run in (tables, other))
        if None not in (expected, got) and expected != got:
            raise ScoredTablesError(
                f"expected `not_near` a run of the model that is filtered, with {name} "
                f"{expected!r}, got {got!r} in {redact(other.root)!r}; embed it with that model"
            )
