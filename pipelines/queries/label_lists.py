"""Reads labels and templates: a file with one a line or of JSON, or a list with commas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clip_core import zero_shot
from pipelines.storage import listing, reading

MAX_TEXT_BYTES = 16 << 20
_TEMPLATES = {"none": zero_shot.BARE_TEMPLATES, "simple": zero_shot.SIMPLE_TEMPLATES}
_SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv")
_NAMES = ("name", "label")  # of an object that stands for a class
_EXPECTED = 'expected labels one a line, as ["red", "green"], {"0": "red"} or {"red": 0} in JSON'


def read_labels(value: str) -> tuple[str, ...]:
    """Returns the labels of a file or of a list with commas.

    Raises:
        ValueError, OSError: if there is no such file, or it holds no labels.
    """
    text = _file_text(value, "labels")
    found = (value if text is None else text).strip()
    if found[:1] in ("[", "{"):
        try:
            return _names(json.loads(found), value)
        except json.JSONDecodeError as error:
            if value.lower().endswith(".json") or found[:2] in ('["', '{"') or "\n" in found[:3]:
                raise ValueError(f"{_EXPECTED}; {value!r} cannot be read: {error}") from error
    return _parts(value, "labels") if text is None else _lines(text)


def read_templates(value: str) -> tuple[str, ...]:
    """Returns the templates of a name, of a file, or of the text itself, commas and all.

    Raises:
        ValueError, OSError: if there is no such file, or it is no text.
    """
    if value in _TEMPLATES:
        return _TEMPLATES[value]
    text = _file_text(value, "templates")
    if text is not None:
        return _lines(text)
    parts = _parts(value, "templates")
    # A comma may be the template's own, as in "a photo of a {}, a type of pet."
    return parts if all(zero_shot.SLOT in part for part in parts) else (value.strip(),)


def _file_text(value: str, what: str) -> str | None:
    """Returns what a file holds; None if there is none of that name."""
    if not listing.exists(value):
        return None
    try:
        return reading.read_retried(value, MAX_TEXT_BYTES).decode("utf-8-sig")
    except reading.TooLargeError as error:
        raise ValueError(f"expected less of {what} in {value!r}, got {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"expected {what} as UTF-8 text in {value!r}: {error}") from error


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _parts(value: str, what: str) -> tuple[str, ...]:
    """Takes a list with commas apart, unless it looks like the name of a file that is not there."""
    named = "/" in value or value.lower().endswith(_SUFFIXES)
    if "," not in value and named and zero_shot.SLOT not in value:
        raise ValueError(f"there is no file {value!r}; expected one with {what}, one a line")
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _names(found: Any, value: str) -> tuple[str, ...]:
    """Returns the names in JSON: an array, or an object from or to the numbers of classes."""
    if isinstance(found, Mapping) and all(map(_is_number, found.values())):
        found = sorted(found, key=found.__getitem__)  # {"red": 0}
    elif isinstance(found, Mapping) and all(key.isdecimal() for key in found):
        found = [found[key] for key in sorted(found, key=int)]  # {"0": "red"}
    if not isinstance(found, list):
        raise ValueError(f"{_EXPECTED}; {value!r} holds other JSON")
    return tuple(_name(entry, value) for entry in found)


def _name(entry: Any, value: str) -> str:
    """Returns the name of one class: a text, the last of an array, or a field of an object."""
    if isinstance(entry, list) and entry:  # ["n01440764", "tench"], as ImageNet's index has it
        entry = entry[-1]
    if isinstance(entry, Mapping):
        entry = next((entry[name] for name in _NAMES if name in entry), None)
    if not isinstance(entry, str) or not entry.strip():
        raise ValueError(f"{_EXPECTED}; {value!r} holds {json.dumps(entry)[:60]} besides")
    return entry.strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
