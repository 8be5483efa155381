"""Lays the rows of a chunk out as the columns of the embeddings table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.records import Chunk
from schemas.embeddings import MODEL_COLUMNS, model_column

_NUMPY_TYPES = {pa.float16(): np.float16, pa.float32(): np.float32}


def embeddings_batch(
    chunk: Chunk, schema: pa.Schema, models: Sequence[str | None]
) -> pa.RecordBatch:
    """Returns the scored rows of a chunk with the columns of `schema`, in order.

    Args:
        models: names of the run's models, in the order of the chunk's vectors; None for the one
            without a name.
    """
    found: dict[str, pa.Array] = dict(zip(chunk.rows.schema.names, chunk.rows.columns, strict=True))
    if chunk.known is not None:
        known = chunk.known.take(pa.array(chunk.index))
        found |= dict(zip(known.schema.names, known.columns, strict=True))
    similarities = chunk.similarities or (None,) * len(chunk.vectors)
    for name, vectors, similarity in zip(models, chunk.vectors, similarities, strict=True):
        values = (similarity, vectors.text_truncated, vectors.image, vectors.text)
        for column, value in zip(MODEL_COLUMNS, values, strict=True):
            field = model_column(column, name)
            if value is not None and field in schema.names:
                found[field] = _array(value, schema.field(field).type)
    return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)


def plain_values(array: pa.Array) -> np.ndarray:
    """Returns [n] numbers of an array; `to_numpy` would import pandas, where it is installed."""
    if array.null_count or not len(array):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    found = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return found[array.offset : array.offset + len(array)]


def plain_array(values: np.ndarray) -> pa.Array:
    """Wraps [n] numbers; `pa.array` would import pandas, where it is installed, to look at them."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values.tobytes())])


def _array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Wraps a contiguous array; a list of Python floats would be thirty times as slow."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    flat = values.astype(_NUMPY_TYPES[kind.value_type], copy=False).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
