"""Says what is wrong with a header of CSV or TSV that names no image or caption."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.manifests.text.records import DELIMITERS
from schemas.manifest import RECOGNISED, Dialect, ManifestError

NAMES = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "space": " "}
_LIKELY = ("tab", "comma", "semicolon", "pipe")


def delimiter(value: str) -> str:
    """Returns the character of a flag: itself, or its name, which a shell leaves alone.

    Raises:
        argparse.ArgumentTypeError: if it is neither.
    """
    mark = NAMES.get(value.lower(), "\t" if value == r"\t" else value)
    if len(mark) != 1:
        raise argparse.ArgumentTypeError(
            f"expected one character or {', '.join(NAMES)}, got {value!r}"
        )
    return mark


def check_names(record: Any, names: Sequence[str], uri: str) -> None:
    """Compares the names of columns with the first line.

    Raises:
        ManifestError: if they are more or fewer than its fields.
    """
    if isinstance(record, list) and len(record) != len(names):
        raise ManifestError(
            f"`column_names` names {len(names)} columns, and the first line of {uri} has "
            f"{len(record)} fields; name each, or mind `csv_delimiter`"
        )


def hint(fields: Sequence[pa.Field], kind: str, dialect: Dialect) -> str:
    """Says what the header of a file without the needed columns looks like; "" of a plain one."""
    if kind not in DELIMITERS:
        return ""
    names = [field.name for field in fields]
    used = dialect.csv_delimiter or DELIMITERS[kind]
    header = used.join(names)
    if header.startswith("sep=") and len(header) == 5:
        return "; its first line is a note for Excel: remove it, and pass `csv_delimiter`"
    for name in _LIKELY:
        if name != _name_of(used) and header.count(NAMES[name]) >= max(len(names) - 1, 1):
            return f"; its fields look separated by a {name}: pass `csv_delimiter` {name}"
    known = RECOGNISED.intersection(name.lower() for name in names)
    if known or dialect.column_names:
        return ""
    return "; if the first line is no header, name the columns with `column_names`"


def _name_of(mark: str) -> str:
    return next((name for name, one in NAMES.items() if one == mark), mark)
