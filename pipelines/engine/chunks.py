"""Makes chunks of rows, and carries them where a runner has to."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.records import Chunk, End, Reject, Row, RowFault, Unit
from schemas.embeddings import KEY_ORDER, row_fields
from schemas.pairs import BOTH
from schemas.rejects import FAULT_FIELDS, MAX_DETAIL_CHARS, Reason

CHUNK_ROWS = 64
CHUNK_BYTES = 32 << 20  # of images that the manifest itself holds

BLOCK_ITEMS = 256


def packed(items: Sequence[Any]) -> list[bytes]:
    """Packs items for a graph, some hundreds at a time: they are much alike, and a runner bounds
    the size of a graph."""
    blocks = [items[n : n + BLOCK_ITEMS] for n in range(0, len(items), BLOCK_ITEMS)]
    return [zlib.compress(pickle.dumps(block, protocol=5)) for block in blocks]


def unpacked(block: bytes) -> list[Any]:
    """Unpacks what `packed` has packed in this very job."""
    found: list[Any] = pickle.loads(zlib.decompress(block))
    return found


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


def row_schema(kept: Sequence[pa.Field] = (), pairs: str = BOTH) -> pa.Schema:
    """Returns the schema of a chunk's rows: what each table has of a row."""
    return pa.schema([*row_fields(pairs), *kept])


def make_chunk(
    records: Sequence[Row | Reject],
    kept: Sequence[pa.Field] = (),
    *,
    unit: Unit | None = None,
    number: int = 0,
    end: End | None = None,
) -> Chunk:
    """Makes a chunk of rows, in their order."""
    pairs = unit.columns.pairs if unit else BOTH
    try:
        chunk = _chunk(records, kept, pairs)
    except pa.ArrowException:
        chunk = _chunk([_fitting(record, kept) for record in records], kept, pairs)
    return replace(chunk, unit=unit, number=number, end=end)


def _chunk(records: Sequence[Row | Reject], kept: Sequence[pa.Field], pairs: str) -> Chunk:
    rows = [record for record in records if isinstance(record, Row)]
    rejects = [record for record in records if isinstance(record, Reject)]
    own, schema = len(row_fields(pairs)), row_schema(kept, pairs)
    failed = _row_batch([reject.row for reject in rejects], schema, own)
    index, images = _images_of(rows)
    return Chunk(
        unit=None,
        number=0,
        rows=_row_batch(rows, schema, own),
        rejects=_rejected_rows(failed, rejects, own),
        index=index,
        images=images,
    )


def _images_of(rows: Sequence[Row]) -> tuple[np.ndarray, tuple[Row, ...]]:
    """Returns [rows] int, the image of each, and a row for each image; captions of one share it."""
    if not any(row.caption_index for row in rows):
        return np.arange(len(rows)), tuple(rows)
    index: list[int] = []
    images: list[Row] = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before is None or not _is_of_same_image(before, row):
            images.append(row)
        index.append(len(images) - 1)
    return np.array(index), tuple(images)


def _is_of_same_image(before: Row, row: Row) -> bool:
    same = (before.source_row, before.source) == (row.source_row, row.source)
    return same and before.caption_index < row.caption_index


def _fitting(record: Row | Reject, kept: Sequence[pa.Field]) -> Row | Reject:
    """Rejects a row with a value that its column, whose type other files share, does not hold."""
    row = record.row if isinstance(record, Reject) else record
    fault = None
    for field in kept:
        value = row.kept.get(field.name)
        try:
            _column([value], field.type)
        except pa.ArrowException:
            detail = f"column {field.name!r} is {field.type}, which does not hold {value!r:.100}"
            fault = fault or RowFault("read", Reason.MALFORMED_ROW, detail)
            row = row._replace(kept={**row.kept, field.name: None})
    if isinstance(record, Reject):
        return record._replace(row=row)
    return record if fault is None else fault.to_reject(row)


def _row_batch(rows: Sequence[Row], schema: pa.Schema, own: int) -> pa.RecordBatch:
    """Makes a batch of rows, whose first `own` columns are attributes of a row, the others kept."""
    found = [[getattr(row, name) for row in rows] for name in schema.names[:own]]
    found += [[row.kept.get(name) for row in rows] for name in schema.names[own:]]
    arrays = [_column(v, kind) for v, kind in zip(found, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def reject_rows(chunk: Chunk, faults: Mapping[int, RowFault]) -> None:
    """Moves rows of a chunk to its rejects.

    Args:
        faults: by position in `rows`.
    """
    if not faults:
        return
    positions = sorted(faults)
    keep = np.ones(chunk.rows.num_rows, bool)
    keep[positions] = False
    own, found = len(row_fields(chunk.pairs)), [faults[p] for p in positions]
    failed = _rejected_rows(chunk.rows.take(pa.array(positions)), found, own)
    both = pa.Table.from_batches([chunk.rejects, failed]).sort_by(KEY_ORDER)
    chunk.rejects = both.combine_chunks().to_batches()[0]
    chunk.rows = chunk.rows.filter(pa.array(keep))
    chunk.index = chunk.index[keep]
    chunk.tokens = tuple(array[keep] for array in chunk.tokens)
    chunk.truncated = tuple(array[keep] for array in chunk.truncated)
    chunk.vectors = tuple(vectors.of(keep) for vectors in chunk.vectors)


def _rejected_rows(
    rows: pa.RecordBatch, faults: Sequence[Reject | RowFault], own: int
) -> pa.RecordBatch:
    """Returns rows with what is wrong with them, as the rejects table has them.

    Args:
        own: how many of the columns come before what is wrong.
    """
    about = [
        [fault.stage for fault in faults],
        [fault.reason.value for fault in faults],
        [fault.detail[:MAX_DETAIL_CHARS] for fault in faults],
    ]
    found = [pa.array(v, f.type) for v, f in zip(about, FAULT_FIELDS, strict=True)]
    arrays = [*rows.columns[:own], *found, *rows.columns[own:]]
    fields = list(rows.schema)
    schema = pa.schema([*fields[:own], *FAULT_FIELDS, *fields[own:]])
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if pa.types.is_string(kind):  # of JSON whose rows disagree about the type
            values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        elif pa.types.is_float64(kind):  # Arrow refuses any integer beyond 2**53, exact or not
            values = [float(v) if isinstance(v, int) and float(v) == v else v for v in values]
        return pa.array(values, kind)
