"""What a rule is, and the rules on one row that need nothing but its columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Rule:
    """A condition that rows are kept by.

    Attributes:
        name: as the table of steps shows it.
        columns: what it needs.
        keeps: maps a batch with these columns to [rows] bool; null counts as no.
    """

    name: str
    columns: tuple[str, ...]
    keeps: Callable[[pa.RecordBatch], np.ndarray]


def similarity_rule(least: float, column: str = "similarity", note: str = "") -> Rule:
    """Keeps rows of at least a similarity, compared in float32.

    Args:
        note: ends the name.
    """
    # The shortest digits that give the same float32: those of the float64 would not read as typed.
    name = f"{column} >= {str(np.float32(least))}{note}"
    bound = pa.scalar(least, pa.float32())
    return row_rule(name, (column,), lambda b: pc.greater_equal(b[column], bound))


def row_rule(name: str, columns: Sequence[str], keeps: Callable[[pa.RecordBatch], Any]) -> Rule:
    """Makes a rule of a function that gives an Arrow array of bool."""
    return Rule(name, tuple(columns), lambda batch: mask(keeps(batch)))


def mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns [rows] bool; null counts as no."""
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)
