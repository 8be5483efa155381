"""The types in which values of Parquet files travel, and how a file's own types get there."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import mapped_type

_TAIL_BYTES = 8  # length of the footer, and a magic number
_MAGIC = b"PAR1"


class FinerThanMicroseconds(ValueError):
    """A column of nanoseconds with a value that is no whole microsecond."""


def has_fixed_lists(schema: pa.Schema) -> bool:
    """Tells a schema with lists of a fixed size, at any depth, which Arrow cannot read once one is
    null (apache/arrow#35692)."""
    return any(field.type != mapped_type(field.type, lambda leaf: leaf) for field in schema)


def plain_metadata(file: Any) -> pq.FileMetaData:
    """Returns a file's footer without Arrow's own schema, so that lists of a fixed size are lists.

    The name of that entry gets another letter, as no other bytes of a footer may move.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(size - _TAIL_BYTES)
    length = int.from_bytes(file.read(4), "little")
    file.seek(size - _TAIL_BYTES - length)
    footer = file.read(length).replace(b"ARROW:schema", b"arrow:schema")
    return pq.read_metadata(io.BytesIO(_MAGIC + footer + length.to_bytes(4, "little") + _MAGIC))


def travelling(batch: pa.RecordBatch, schema: pa.Schema, in_us: Collection[str]) -> pa.RecordBatch:
    """Returns values in types that travel: no categories, no lists of a fixed size, nanoseconds as
    numbers, and times without their zone, which may be one that nobody knows.

    Python's own times end at microseconds; Arrow would need pandas, or drop the rest. It takes the
    numbers back for what they were, and times without a zone for those of UTC.

    Args:
        schema: of the file, with the columns of the batch.
        in_us: columns whose timestamps in nanoseconds are to be microseconds.

    Raises:
        FinerThanMicroseconds: if one is not.
    """
    steps = _steps(pa.schema([schema.field(name) for name in batch.schema.names]), tuple(in_us))
    for step in steps[:-1]:
        batch = batch if batch.schema.equals(step) else batch.cast(step)
    try:
        return batch if batch.schema.equals(steps[-1]) else batch.cast(steps[-1])
    except pa.ArrowInvalid as error:
        raise FinerThanMicroseconds(str(error)) from error


@lru_cache(maxsize=16)
def _steps(schema: pa.Schema, in_us: tuple[str, ...]) -> tuple[pa.Schema, ...]:
    """Returns the types that a batch passes through: as the file means them, times as numbers,
    times without zone, and times in microseconds."""

    def of(leaf: Callable[[pa.DataType, bool], pa.DataType]) -> pa.Schema:
        return pa.schema([(f.name, _mapped(f, leaf, f.name in in_us)) for f in schema])

    return of(lambda kind, us: kind), of(_as_number), of(_without_zone), of(_in_us)


def _mapped(
    field: pa.Field, leaf: Callable[[pa.DataType, bool], pa.DataType], in_us: bool
) -> pa.DataType:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return mapped_type(kind, lambda one: leaf(one, in_us))


def _is_in_ns(kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) and getattr(kind, "unit", None) == "ns"


def _as_number(kind: pa.DataType, in_us: bool) -> pa.DataType:
    has_zone = pa.types.is_timestamp(kind) and kind.tz is not None
    stays = not _is_in_ns(kind) or (in_us and pa.types.is_timestamp(kind))
    return pa.int64() if has_zone or not stays else kind


def _without_zone(kind: pa.DataType, in_us: bool) -> pa.DataType:
    if pa.types.is_timestamp(kind) and (in_us or kind.unit != "ns"):
        return pa.timestamp(kind.unit)
    return _as_number(kind, in_us)


def _in_us(kind: pa.DataType, in_us: bool) -> pa.DataType:
    found = _without_zone(kind, in_us)
    return pa.timestamp("us") if pa.types.is_timestamp(found) and _is_in_ns(found) else found


def in_microseconds(kind: pa.DataType) -> pa.DataType:
    """Returns the type with timestamps in nanoseconds, at any depth, as microseconds."""

    def leaf(one: pa.DataType) -> pa.DataType:
        is_in_ns = pa.types.is_timestamp(one) and one.unit == "ns"
        return pa.timestamp("us", one.tz) if is_in_ns else one

    return mapped_type(kind, leaf)
