"""BigQuery's table schemas, derived from those of the Parquet files it loads.

Types as BigQuery's documentation maps Parquet's ("Loading Parquet data", Parquet conversions), with
list inference switched on, so that a list becomes a repeated field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timezone
from typing import Any

import pyarrow as pa

# "Column names" of BigQuery's documentation; flexible ones are not taken of Parquet by default.
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,299}")
_NAMES = (
    "they are letters, digits and underscores, not a digit first, and some beginnings are its own"
)
_RESERVED = (
    *("_TABLE_", "_FILE_", "_PARTITION", "_ROW_TIMESTAMP", "__ROOT__", "_COLIDENTIFIER"),
    *("_CHANGE_SEQUENCE_NUMBER", "_CHANGE_TYPE", "_CHANGE_TIMESTAMP"),
)
_TYPES: Mapping[str, Callable[[pa.DataType], bool]] = {
    "STRING": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
    "INTEGER": pa.types.is_integer,
    "FLOAT": lambda t: pa.types.is_float32(t) or pa.types.is_float64(t),
    "BOOLEAN": pa.types.is_boolean,
    "BYTES": lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t),
    "DATE": pa.types.is_date,
    "TIME": pa.types.is_time,
    "TIMESTAMP": lambda t: pa.types.is_timestamp(t) and t.tz is not None,
    "DATETIME": lambda t: pa.types.is_timestamp(t) and t.tz is None,
    "NUMERIC": lambda t: _is_decimal(t, 29, 9),
    "BIGNUMERIC": lambda t: _is_decimal(t, 38, 38),
}


def bigquery_schema(schema: pa.Schema) -> list[dict[str, Any]]:
    """Returns the fields of a table as `bq load` takes them in a JSON file.

    Raises:
        ValueError: if BigQuery has no such type, as of 16-bit floats and of lists of lists, or does
            not take the name of a column.
    """
    names = bad_names(schema)
    if names:
        raise ValueError(
            f"BigQuery takes no columns called {', '.join(map(repr, names))}: {_NAMES}; rename "
            "them in the manifest, or leave them out of `keep_columns`"
        )
    return [_field(field) for field in schema]


def bad_names(fields: Iterable[pa.Field], above: str = "") -> list[str]:
    """Returns the names that BigQuery does not take, those inside of structs with their path."""
    found = []
    for field in fields:
        path = f"{above}{field.name}"
        if not _NAME.fullmatch(field.name) or field.name.upper().startswith(_RESERVED):
            found.append(path)
        kind = field.type
        while _is_list(kind):
            kind = kind.value_type
        if pa.types.is_struct(kind):
            found += bad_names(kind, f"{path}.")
    return found


def bounds_of(kind: pa.DataType) -> tuple[Any, Any] | None:
    """Returns the least and the largest value that BigQuery holds of a type that holds others; of
    lists those of their elements."""
    while _is_list(kind):
        kind = kind.value_type
    if pa.types.is_uint64(kind):
        return 0, 2**63 - 1
    if pa.types.is_date(kind):
        return date.min, date.max
    if pa.types.is_timestamp(kind):
        zone = timezone.utc if kind.tz is not None else None
        return datetime.min.replace(tzinfo=zone), datetime.max.replace(tzinfo=zone)
    return None


def _field(field: pa.Field) -> dict[str, Any]:
    kind, mode = field.type, "NULLABLE" if field.nullable else "REQUIRED"
    if _is_list(kind):
        kind, mode = kind.value_type, "REPEATED"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        parts = [_field(part) for part in kind]
        return {"name": field.name, "type": "RECORD", "mode": mode, "fields": parts}
    return {"name": field.name, "type": _type_name(field.name, kind), "mode": mode}


def _type_name(column: str, kind: pa.DataType) -> str:
    for name, matches in _TYPES.items():
        if matches(kind):
            return name
    remedy = "leave the column out of `keep_columns`"
    if pa.types.is_float16(kind):
        remedy = "embed with float32 as `embedding_dtype` or with `scores_only`"
    raise ValueError(f"BigQuery has no type for {kind} in column {column!r}; {remedy}")


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(matches(kind) for matches in lists)


def _is_decimal(kind: pa.DataType, before: int, after: int) -> bool:
    """Tells a decimal with at most so many digits before and after the point."""
    if not pa.types.is_decimal(kind):
        return False
    return bool(kind.precision - kind.scale <= before and kind.scale <= after)
