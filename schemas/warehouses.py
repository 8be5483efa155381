"""Which columns of a table an engine cannot read: for those who keep columns of their manifest."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from schemas.bigquery import bad_names, bigquery_schema


def unreadable(fields: Iterable[pa.Field]) -> list[str]:
    """Returns a sentence about each column that BigQuery or Spark does not take as it is."""
    found = []
    for field in fields:
        for engine, what in (("BigQuery", _bigquery(field)), ("Spark 3.5", _spark(field.type))):
            if what is not None:
                found.append(f"{engine} cannot read column {field.name!r}: {what}")
    return found


def _bigquery(field: pa.Field) -> str | None:
    if names := bad_names([field]):
        return f"it takes letters, digits and underscores in names, and not {names[0]!r}"
    try:
        bigquery_schema(pa.schema([field]))
    except ValueError:
        return f"it has no type for {field.type}"
    return None


def _spark(kind: pa.DataType) -> str | None:
    """Types that Spark's reader of Parquet refuses, with all columns of the table."""
    for part in _leaves(kind):
        is_in_ns = pa.types.is_timestamp(part) and part.unit == "ns"
        if is_in_ns or pa.types.is_time(part) or pa.types.is_float16(part):
            return f"it has no type for {part}"
    return None


def _leaves(kind: pa.DataType) -> list[pa.DataType]:
    parts = [kind.field(index).type for index in range(kind.num_fields)]
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [kind]
