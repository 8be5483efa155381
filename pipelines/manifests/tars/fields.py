"""What the texts of a sample say, whether they are members of a tar or files beside an image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.manifests.tars.samples import COLUMNS
from pipelines.storage.foreign_json import read_json
from schemas.manifest import (
    ERROR_NAME,
    STATUS_NAME,
    TEXT_NAMES,
    UID_NAMES,
    ColumnOverrides,
    Columns,
    check_unread,
)
from schemas.pairs import IMAGES


def columns_of(overrides: ColumnOverrides) -> Columns:
    """Returns where a sample's fields are: what the user names is an extension or a field of json
    (of an image, base64 text), and the rest is recognised in each sample.

    Raises:
        ManifestError: if the user names what is not read.
    """
    check_unread(overrides)
    named = {"uid": overrides.uid, "image_bytes": overrides.image, "text": overrides.text}
    given: dict[str, Any] = {column: name for column, name in named.items() if name is not None}
    if overrides.pairs == IMAGES:
        given["text"] = None
    return replace(COLUMNS, kept=overrides.kept, **overrides.dialect(), **given)


def text_fields(columns: Columns) -> set[str]:
    """Returns the fields that are texts, beside the json."""
    captions = {"txt", columns.text.lower()} if columns.text else set()
    return {*captions, str(columns.uid).lower()}


def values_of(found: Mapping[str, bytes], uid: str, columns: Columns) -> dict[str, Any]:
    """Returns the values of a sample, without its image unless that is base64 text of its json.

    Args:
        found: contents by field.
        uid: the id of a sample that says none.

    Raises:
        ValueError: if a text is not UTF-8, or the json none, or no object.
    """
    about = read_json(found["json"]) if "json" in found else {}
    if not isinstance(about, dict):
        raise ValueError(f"expected a json object, got {type(about).__name__}")
    values: dict[str, Any] = {name: _plain(about.get(name)) for name in columns.kept}
    own = None if columns.uid == COLUMNS.uid else _named(str(columns.uid), found, about)
    values[str(columns.uid)] = own or _first(about, UID_NAMES) or uid
    if columns.text is not None:
        values[columns.text] = _caption(columns, found, about)
    # img2dataset takes the hash of the image that it then resizes.
    is_resized = STATUS_NAME in about and ERROR_NAME in about
    values[str(columns.sha256)] = None if is_resized else about.get("sha256")
    if isinstance(text := about.get(str(columns.image_bytes)), str):
        values[str(columns.image_bytes)] = text
    return values


def _caption(columns: Columns, found: Mapping[str, bytes], about: dict[str, Any]) -> Any:
    if columns.text != COLUMNS.text:
        return _named(str(columns.text), found, about)
    beside = found["txt"].decode("utf-8") if "txt" in found else None
    return beside if beside and beside.strip() else _first(about, TEXT_NAMES) or beside


def _named(column: str, found: Mapping[str, bytes], about: dict[str, Any]) -> Any:
    """Returns what the user names: a text beside the image, else a field of json."""
    text = found.get(column.lower())
    return about.get(column) if text is None else text.decode("utf-8")


def _first(about: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Returns the first of json's fields that holds something, which a blank text does not, nor a
    list of nothing."""
    for name in names:
        value = about.get(name)
        if value not in (None, "", []) and not (isinstance(value, str) and value.isspace()):
            return value
    return None


def _plain(value: Any) -> str | None:
    """Kept fields of json are text, as their types differ from sample to sample."""
    return value if value is None or isinstance(value, str) else json.dumps(value)
