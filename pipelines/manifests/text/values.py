"""Takes records of text manifests apart into values by column, and finds the types of columns."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipelines.manifests.rows import Fault
from pipelines.manifests.text.records import too_long
from pipelines.storage.foreign_json import TooDeepError, read_json
from schemas.common_types import json_column
from schemas.rejects import Reason

NOT_UTF8 = (
    "the row is not valid UTF-8; convert the manifest, for example with "
    "`iconv -f latin1 -t utf-8` if that is what it is"
)
_LOOKED_INTO = 8  # values of a list
_NAMED_BY = 1000  # records of a JSONL file whose keys count as its columns


def csv_values(record: list[str], names: list[str]) -> dict[str, str | None] | Fault:
    """Returns the fields of a line by column; an empty field is no value."""
    if fault := next(filter(None, map(too_long, record)), None):
        return fault
    if len(record) != len(names):
        return Fault(Reason.MALFORMED_ROW, f"expected {len(names)} fields, got {len(record)}")
    if any(has_surrogate(value) for value in record):
        return Fault(Reason.MALFORMED_ROW, NOT_UTF8)
    return {name: value or None for name, value in zip(names, record, strict=True)}


def json_values(line: str, kept: tuple[str, ...]) -> dict[str, Any] | Fault:
    """Returns the members of a JSON object, of which nested ones that are kept are text."""
    if fault := too_long(line):
        return fault
    if has_surrogate(line):
        return Fault(Reason.MALFORMED_ROW, NOT_UTF8)
    try:
        values = read_json(line)
    except TooDeepError as error:
        return Fault(Reason.MALFORMED_ROW, str(error))
    except ValueError as error:
        return Fault(Reason.MALFORMED_ROW, f"not JSON: {error}")
    if not isinstance(values, dict):
        return Fault(Reason.MALFORMED_ROW, f"expected an object, got {type(values).__name__}")
    for name in kept:
        if isinstance(values.get(name), dict | list):
            values[name] = json.dumps(values[name], ensure_ascii=False)
    return values


def has_surrogate(text: str) -> bool:
    """Tells text that stood for bytes which are not UTF-8."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


class JsonTypes:
    """Finds the columns of a JSONL file, and the types of those that are kept."""

    def __init__(self, kept: tuple[str, ...]) -> None:
        self._kept = kept
        self._seen = 0
        self._types: dict[str, set[pa.DataType]] = {}
        self._inexact: set[str] = set()  # columns with a whole number that float64 does not hold

    def look_at(self, line: str) -> None:
        """Takes the next record."""
        self._seen += 1
        if self._seen > _NAMED_BY and not self._kept:
            return
        values = json_values(line, self._kept)
        if isinstance(values, Fault):
            return
        for name, value in values.items():
            if has_surrogate(name):
                continue
            self._types.setdefault(name, set()).add(_json_type(value))
            if _is_inexact(value):
                self._inexact.add(name)

    def fields(self) -> tuple[pa.Field, ...]:
        """Returns the columns that were seen."""
        return tuple(
            json_column(name, kinds, name in self._inexact) for name, kinds in self._types.items()
        )


def _is_inexact(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < 2**63 and float(value) != value


def _json_type(value: Any) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(2**63) <= value < 2**63 else pa.string()
    if isinstance(value, list) and any(isinstance(one, dict) for one in value[:_LOOKED_INTO]):
        return pa.list_(pa.struct([]))  # neither of images nor of captions
    return pa.float64() if isinstance(value, float) else pa.string()
