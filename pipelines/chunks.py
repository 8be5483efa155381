"""Chunks: some dozens of rows of one unit, side by side as arrays, on their way through the line.

Read fills in the rows and whose images are to be fetched, Prepare the pixels and tokens, the
encoder the vectors, Score the similarities. Each drops what the next one does not need. A row that
fails on the way moves from `rows` to `rejects` of its chunk.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.records import Reject, Row, RowFault, Unit
from schemas.embeddings import ROW_FIELDS
from schemas.rejects import FAULT_FIELDS, MAX_DETAIL_CHARS, rejects_schema

CHUNK_ROWS = 64
CHUNK_BYTES = 32 << 20  # of images that the manifest itself holds
_OVERHEAD_BYTES = 512


class End(NamedTuple):
    """What the last chunk of a unit tells: how many chunks and rows the reader counted."""

    chunks: int
    rows: int


class Vectors(NamedTuple):
    """What one model makes of the rows of a chunk.

    Attributes:
        image, text: [rows, dim] float32, L2-normalised.
        text_truncated: [rows] bool.
    """

    image: np.ndarray
    text: np.ndarray
    text_truncated: np.ndarray


class Lease(Protocol):
    """Bytes of a process's budget; they stay in the process."""

    def give_back(self, size: int | None = None) -> None:
        """Gives so many bytes back, or all that are left."""


@dataclass(eq=False)
class Chunk:
    """Consecutive rows of one unit.

    Attributes:
        unit: None for rows of one's own, which belong to none.
        number: of the chunk in its unit, from 0.
        rows: those that have not failed, as `row_schema` has them, in manifest order.
        rejects: those that have, as `rejects_schema` has them, in manifest order.
        index: [rows] int, which image a row has; several rows may share one.
        images: a row for each image that is to be fetched; empty behind Prepare.
        known: what is known of each image, a row an image: a table that `image_fields` describes.
        pixels: for each distinct preprocessing [images, 3, size, size] uint8.
        tokens, truncated: for each distinct tokenizer [rows, context_length] int64, [rows] bool.
        vectors: of each model.
        similarities: of each model [rows] float32, the cosine of image and text.
        end: of the last chunk of a unit, else None.
        lease: the bytes that it holds of its process's budget.
    """

    unit: Unit | None
    number: int
    rows: pa.RecordBatch
    rejects: pa.RecordBatch
    index: np.ndarray
    images: tuple[Row, ...] = ()
    known: pa.RecordBatch | None = None
    pixels: tuple[np.ndarray, ...] = ()
    tokens: tuple[np.ndarray, ...] = ()
    truncated: tuple[np.ndarray, ...] = ()
    vectors: tuple[Vectors, ...] = ()
    similarities: tuple[np.ndarray, ...] = ()
    end: End | None = None
    lease: Lease | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Rows, rejected ones among them."""
        return int(self.rows.num_rows + self.rejects.num_rows)

    @property
    def nbytes(self) -> int:
        """Bytes that the chunk holds, about."""
        tables = [table for table in (self.rows, self.rejects, self.known) if table is not None]
        arrays = [self.index, *self.pixels, *self.tokens, *self.truncated, *self.similarities]
        arrays += [array for vectors in self.vectors for array in vectors]
        inline = sum(len(row.image_bytes or b"") for row in self.images)
        return _OVERHEAD_BYTES + inline + sum(part.nbytes for part in (*tables, *arrays))

    def reject_rows(self, faults: Mapping[int, RowFault]) -> None:
        """Moves rows to the rejects.

        Args:
            faults: by position in `rows`.
        """
        if not faults:
            return
        positions = sorted(faults)
        keep = np.ones(self.rows.num_rows, bool)
        keep[positions] = False
        failed = _rejected(self.rows.take(pa.array(positions)), [faults[p] for p in positions])
        both = pa.Table.from_batches([self.rejects, failed]).sort_by("source_row")
        self.rejects = both.combine_chunks().to_batches()[0]
        self.rows = self.rows.filter(pa.array(keep))
        self.index = self.index[keep]
        self.tokens = tuple(array[keep] for array in self.tokens)
        self.truncated = tuple(array[keep] for array in self.truncated)
        self.vectors = tuple(Vectors(*(a[keep] for a in found)) for found in self.vectors)


class ChunkCoder(beam.coders.Coder):
    """Encodes a chunk where a runner has to carry one, which is before or behind the line."""

    def encode(self, chunk: Chunk) -> bytes:
        if chunk.lease is not None:
            unit = chunk.unit.unit_id if chunk.unit else "of rows of one's own"
            raise RuntimeError(
                f"chunk {chunk.number} of unit {unit} holds pixels, which never travel: the runner "
                "cut the line behind Prepare; give resource hints to the whole of it or to nothing"
            )
        return pickle.dumps(chunk, protocol=5)

    def decode(self, encoded: bytes) -> Chunk:
        return pickle.loads(encoded)  # written by this very job

    def estimate_size(self, chunk: Chunk) -> int:
        """Tells the size without encoding; Beam's byte counters would encode each sample."""
        return chunk.nbytes

    def is_deterministic(self) -> bool:
        return False


beam.coders.registry.register_coder(Chunk, ChunkCoder)


def chunk_rows(batch_size: int) -> int:
    """Returns the rows of a chunk: whole chunks fill a batch, as far as its size lets them."""
    return batch_size // -(-batch_size // CHUNK_ROWS)


def row_schema(kept: Sequence[pa.Field] = ()) -> pa.Schema:
    """Returns the schema of a chunk's rows: what each table has of a row."""
    return pa.schema([*ROW_FIELDS, *kept])


def make_chunk(
    records: Sequence[Row | Reject],
    kept: Sequence[pa.Field] = (),
    *,
    unit: Unit | None = None,
    number: int = 0,
    end: End | None = None,
) -> Chunk:
    """Makes a chunk of rows, in their order."""
    rows = [record for record in records if isinstance(record, Row)]
    rejects = [record for record in records if isinstance(record, Reject)]
    schema = row_schema(kept)
    failed = _row_batch([reject.row for reject in rejects], schema)
    return Chunk(
        unit=unit,
        number=number,
        rows=_row_batch(rows, schema),
        rejects=_rejected(failed, rejects),
        index=np.arange(len(rows)),
        images=tuple(rows),
        end=end,
    )


def _row_batch(rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    own = [[getattr(row, field.name) for row in rows] for field in ROW_FIELDS]
    kept = [[row.kept.get(name) for row in rows] for name in schema.names[len(ROW_FIELDS) :]]
    arrays = [_column(v, kind) for v, kind in zip([*own, *kept], schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if pa.types.is_string(kind):  # of JSON whose rows disagree about the type
            values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        elif pa.types.is_float64(kind):  # Arrow refuses integers that lose digits
            values = [None if v is None else float(v) for v in values]
        return pa.array(values, kind)


def _rejected(rows: pa.RecordBatch, faults: Sequence[Reject | RowFault]) -> pa.RecordBatch:
    """Returns rows with what is wrong with them, as the rejects table has them."""
    own = len(ROW_FIELDS)
    about = [
        [fault.stage for fault in faults],
        [fault.reason.value for fault in faults],
        [fault.detail[:MAX_DETAIL_CHARS] for fault in faults],
    ]
    found = [pa.array(v, f.type) for v, f in zip(about, FAULT_FIELDS, strict=True)]
    arrays = [*rows.columns[:own], *found, *rows.columns[own:]]
    kept = [rows.schema.field(n) for n in range(own, len(rows.schema))]
    return pa.RecordBatch.from_arrays(arrays, schema=rejects_schema(kept))
