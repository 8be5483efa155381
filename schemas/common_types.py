"""The one type that holds the values of a column which several files have in types of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import pyarrow as pa

_INTEGERS = tuple(  # the narrowest first, and the bounds of each
    (kind, low, high)
    for bits, signed, unsigned in (
        (8, pa.int8(), pa.uint8()),
        (16, pa.int16(), pa.uint16()),
        (32, pa.int32(), pa.uint32()),
        (64, pa.int64(), pa.uint64()),
    )
    for kind, low, high in (
        (unsigned, 0, 2**bits - 1),
        (signed, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
    )
)
_BOUNDS = {kind: (low, high) for kind, low, high in _INTEGERS}
_FLOATS = (pa.float16(), pa.float32(), pa.float64())  # each holds those before it
_UNITS = ("s", "ms", "us", "ns")
_INEXACT = {b"float64": b"does not hold all of them"}


def common_type(kinds: Collection[pa.DataType]) -> pa.DataType | None:
    """Returns the narrowest type that holds the values of all; None if there is none.

    Nothing is null of any type. Integers and fractions together are float64, as Arrow has it: it
    holds integers up to 2**53. Times get the finest unit; lists and structs go by their elements.
    """
    found = list(dict.fromkeys(kind for kind in kinds if not pa.types.is_null(kind)))
    if len(found) < 2:
        return found[0] if found else pa.null()
    for rule in (_number, _text, _time, _list, _struct):
        common = rule(found)
        if common is not None:
            return common
    return None


def json_column(name: str, kinds: Iterable[pa.DataType], is_inexact: bool) -> pa.Field:
    """Returns the column of JSON values of some types; those without a common one become text.

    Args:
        is_inexact: whether there are whole numbers among the values that float64 does not hold.
            They are text beside fractions, and the field says so to `common_json_column`.
    """
    common = common_type(set(kinds)) or pa.string()
    if is_inexact and pa.types.is_floating(common):
        common = pa.string()
    return pa.field(name, common, metadata=_INEXACT if is_inexact else None)


def common_json_column(columns: Collection[pa.Field]) -> pa.Field:
    """Returns the column that one file with the values of all would have."""
    kinds = [column.type for column in columns]
    return json_column(
        next(iter(columns)).name, kinds, any(column.metadata == _INEXACT for column in columns)
    )


def _number(kinds: list[pa.DataType]) -> pa.DataType | None:
    if all(kind in _BOUNDS for kind in kinds):
        lows, highs = zip(*(_BOUNDS[kind] for kind in kinds), strict=True)
        holding = (one for one, low, high in _INTEGERS if low <= min(lows) and max(highs) <= high)
        return next(holding, None)
    if all(kind in _FLOATS for kind in kinds):
        return max(kinds, key=_FLOATS.index)
    return pa.float64() if all(kind in _BOUNDS or kind in _FLOATS for kind in kinds) else None


def _text(kinds: list[pa.DataType]) -> pa.DataType | None:
    for common, large in ((pa.string(), pa.large_string()), (pa.binary(), pa.large_binary())):
        if all(kind in (common, large) for kind in kinds):
            return common
    return None


def _time(kinds: list[pa.DataType]) -> pa.DataType | None:
    first = kinds[0]
    if not all(_is_time(kind) for kind in kinds):
        return None
    unit = max((kind.unit for kind in kinds), key=_UNITS.index)
    if _all(pa.types.is_timestamp, kinds) and len({kind.tz for kind in kinds}) == 1:
        return pa.timestamp(unit, first.tz)
    if _all(pa.types.is_duration, kinds):
        return pa.duration(unit)
    if _all(pa.types.is_time, kinds):
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    return None


def _is_time(kind: pa.DataType) -> bool:
    is_one = (pa.types.is_timestamp, pa.types.is_duration, pa.types.is_time)
    return any(is_such(kind) for is_such in is_one)


def _list(kinds: list[pa.DataType]) -> pa.DataType | None:
    if not _all(_is_list, kinds):
        return None
    element = common_type([kind.value_type for kind in kinds])
    return None if element is None else pa.list_(element)


def _is_list(kind: pa.DataType) -> bool:
    is_one = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_such(kind) for is_such in is_one)


def _struct(kinds: list[pa.DataType]) -> pa.DataType | None:
    if not _all(pa.types.is_struct, kinds):
        return None
    members: dict[str, list[pa.DataType]] = {}
    for kind in kinds:
        for field in kind:
            members.setdefault(field.name, []).append(field.type)
    common = {name: common_type(types) for name, types in members.items()}
    return None if None in common.values() else pa.struct(list(common.items()))


def _all(is_such: Callable[[pa.DataType], bool], kinds: list[pa.DataType]) -> bool:
    return all(map(is_such, kinds))
