"""Turns scored rows and rejects into Arrow tables, column by column, straight from arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.records import Embedded, Reject, Row, Scored
from schemas.embeddings import MODEL_COLUMNS, model_column

_FROM_ROW: Mapping[str, Callable[[Row], Any]] = {
    "uid": lambda row: row.uid,
    "source": lambda row: row.source,
    "source_row": lambda row: row.source_row,
    "url": lambda row: row.url,
    "text": lambda row: row.text,
}
_FROM_EMBEDDED: Mapping[str, Callable[[Embedded], Any]] = {
    "original_width": lambda embedded: embedded.original_width,
    "original_height": lambda embedded: embedded.original_height,
    "sha256": lambda embedded: embedded.sha256,
}
_NUMPY_TYPES = {pa.float16(): np.float16, pa.float32(): np.float32}
_FROM_REJECT: Mapping[str, Callable[[Reject], Any]] = {
    "stage": lambda reject: reject.stage,
    "reason": lambda reject: reject.reason.value,
    "detail": lambda reject: reject.detail,
}


def scored_batch(
    rows: Sequence[Scored], schema: pa.Schema, models: Sequence[str | None]
) -> pa.RecordBatch:
    """Returns a batch with the columns of `schema`, one row per scored row, in order.

    Args:
        models: names of the run's models, in the order of the rows' vectors; None for the one
            without a name.
    """
    by_model = {
        model_column(column, name): (column, index)
        for index, name in enumerate(models)
        for column in MODEL_COLUMNS
    }

    def column(field: pa.Field) -> pa.Array:
        if field.name in by_model:
            return _model_column(rows, *by_model[field.name], field.type)
        read = _FROM_EMBEDDED.get(field.name)
        if read is not None:
            return pa.array([read(row.embedded) for row in rows], field.type)
        return _row_column([row.embedded.row for row in rows], field)

    return pa.RecordBatch.from_arrays([column(field) for field in schema], schema=schema)


def _model_column(rows: Sequence[Scored], column: str, model: int, kind: pa.DataType) -> pa.Array:
    if column == "similarity":
        return pa.array([row.similarities[model] for row in rows], kind)
    values = [getattr(row.embedded.vectors[model], column) for row in rows]
    return pa.array(values, kind) if column == "text_truncated" else _vectors(values, kind)


def rejects_batch(rejects: Sequence[Reject], schema: pa.Schema) -> pa.RecordBatch:
    """Returns a batch with the columns of `schema`, one row per reject, in order."""

    def column(field: pa.Field) -> pa.Array:
        if field.name in _FROM_REJECT:
            return pa.array([_FROM_REJECT[field.name](reject) for reject in rejects], field.type)
        return _row_column([reject.row for reject in rejects], field)

    return pa.RecordBatch.from_arrays([column(field) for field in schema], schema=schema)


def _row_column(rows: Sequence[Row], field: pa.Field) -> pa.Array:
    """A column that every table has, or one that the manifest brought along."""
    read = _FROM_ROW.get(field.name)
    if read is not None:
        return pa.array([read(row) for row in rows], field.type)
    values = [row.kept.get(field.name) for row in rows]
    if pa.types.is_string(field.type):  # of JSON whose rows disagree about the type
        values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    elif pa.types.is_float64(field.type):  # Arrow refuses integers that lose digits
        values = [None if v is None else float(v) for v in values]
    return pa.array(values, field.type)


def _vectors(vectors: Sequence[np.ndarray], kind: pa.FixedSizeListType) -> pa.Array:
    """Wraps a contiguous array; a list of Python floats would be thirty times as slow."""
    width = kind.list_size
    values = np.stack(vectors) if vectors else np.empty((0, width))
    flat = pa.array(values.astype(_NUMPY_TYPES[kind.value_type], copy=False).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
