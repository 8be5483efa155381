"""Which columns of a manifest hold the image, the caption and the id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from schemas.pairs import BOTH, IMAGES, TEXTS

# Case-insensitive; the first name that is there wins.
UID_NAMES = ("uid", "id", "key", "sample_id")
IMAGE_URI_NAMES = (
    "url",
    "image_uri",
    "image_url",
    "image_path",
    "image",
    "path",
    "uri",
    "file_name",  # of Hugging Face's image folders
)
IMAGE_BYTES_NAMES = ("image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "image")
TEXT_NAMES = ("text", "caption", "alt", "alt_text", "txt", "captions", "texts")
SHA256_NAMES = ("sha256",)
# What img2dataset says about each row, when both are there.
STATUS_NAME, ERROR_NAME = "status", "error_message"
DOWNLOADED = "success"
AUTO, BASE64 = IMAGE_ENCODINGS = ("auto", "base64")
FIRST_DOT, LAST_DOT = KEY_ENDS = ("first_dot", "last_dot")
STANDARD, NONE = CSV_QUOTINGS = ("standard", "none")


class ManifestError(ValueError):
    """A manifest that cannot be planned: says which columns or files there are, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a manifest is spelt, where its own files do not say.

    Attributes:
        image_encoding: `base64` where every image is that; `auto` where base64 text is told by how
            it begins.
        key_until: where the key in the name of a tar's member ends.
        csv_delimiter: between the fields of CSV and TSV; None for a comma, or a tab.
        csv_quoting: `standard` has fields in quotes as RFC 4180 says; of `none` quotes are text.
        column_names: of CSV and TSV without a header; empty where the first line is one.
        keep_nanoseconds: whether kept timestamps may be finer than microseconds.
        pairs: `both` where rows have images and captions, else the half that is read alone.

    Raises:
        ValueError: if a delimiter is no single character that can be one.
    """

    image_encoding: str = AUTO
    key_until: str = FIRST_DOT
    csv_delimiter: str | None = None
    csv_quoting: str = STANDARD
    column_names: tuple[str, ...] = ()
    keep_nanoseconds: bool = False
    pairs: str = BOTH

    def __post_init__(self) -> None:
        mark = self.csv_delimiter
        if mark is not None and (len(mark) != 1 or mark in '"\r\n\0'):
            raise ValueError(f"`csv_delimiter` must be one character, and no quote, got {mark!r}")

    def dialect(self) -> dict[str, Any]:
        """Returns the values of these attributes, by name."""
        return {field.name: getattr(self, field.name) for field in fields(Dialect)}


@dataclass(frozen=True)
class Columns(Dialect):
    """Names of the manifest's columns, as they are spelt there; None where there is none.

    A row's pixels come from `image_bytes` where that is given; `image_uri` is then only copied to
    the output. `status` and `error` are img2dataset's: a row whose status is not `success` has no
    image, and `sha256` is then that of the image before it was resized.
    """

    uid: str | None = None
    image_uri: str | None = None
    image_bytes: str | None = None
    text: str | None = None
    sha256: str | None = None
    status: str | None = None
    error: str | None = None
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnOverrides(Dialect):
    """What the user says: `image_column`, `text_column`, `id_column`, `keep_columns`, and how the
    manifest is spelt."""

    image: str | None = None
    text: str | None = None
    uid: str | None = None
    kept: tuple[str, ...] = ()


def resolve_columns(fields: Iterable[pa.Field], overrides: ColumnOverrides) -> Columns:
    """Finds the columns of a manifest.

    Args:
        fields: name and type of every column; the type tells image bytes from image URIs.
        overrides: what the user names; a column so named must be there.

    Raises:
        ManifestError: if the image or the caption is not found, if a column that the user names is
            not there, or if two columns have the same name but for case.
    """
    found = _Found(list(fields))
    check_unread(overrides)
    about_image = {} if overrides.pairs == TEXTS else _about_image(found, overrides)
    return Columns(
        uid=found.override("id_column", overrides.uid) or found.first(UID_NAMES, found.is_scalar),
        text=None if overrides.pairs == IMAGES else _caption(found, overrides),
        kept=tuple(str(found.override("keep_columns", name)) for name in overrides.kept),
        **about_image,
        **overrides.dialect(),
    )


def check_unread(overrides: ColumnOverrides) -> None:
    """Makes sure that the user names no column of the half that is not read.

    Raises:
        ManifestError: if one is named.
    """
    half = {IMAGES: ("text_column", overrides.text), TEXTS: ("image_column", overrides.image)}
    parameter, name = half.get(overrides.pairs, ("", None))
    if name is not None:
        raise ManifestError(
            f"`{parameter}` names {name!r}, which `pairs={overrides.pairs!r}` does not read; leave "
            "one out"
        )


def _caption(found: _Found, overrides: ColumnOverrides) -> str:
    text = found.override("text_column", overrides.text)
    if text is not None and not found.is_text_or_list(text):
        raise found.unfit(text, "caption", "text_column")
    text = text or found.first(TEXT_NAMES, found.is_text_or_list)
    if text is None:
        raise found.absent("caption", "text_column", TEXT_NAMES, IMAGES)
    return text


def _about_image(found: _Found, overrides: ColumnOverrides) -> dict[str, Any]:
    """Returns where the image is, and what else is said of it."""
    image = found.override("image_column", overrides.image)
    if image is not None:
        image_bytes, image_uri = (image, None) if found.is_bytes(image) else (None, image)
    else:
        image_bytes = found.first(IMAGE_BYTES_NAMES, found.is_bytes)
        # Where bytes are text, a URL beside them only says where they came from.
        first = IMAGE_BYTES_NAMES if overrides.image_encoding == BASE64 else ()
        image_uri = found.first((*first, *IMAGE_URI_NAMES), found.is_text_or_list)
    if image_bytes is None and image_uri is None:
        raise found.absent("image", "image_column", (*IMAGE_URI_NAMES, *IMAGE_BYTES_NAMES), TEXTS)
    status, error = (found.first((name,), found.is_text) for name in (STATUS_NAME, ERROR_NAME))
    return {
        "image_uri": image_uri,
        "image_bytes": image_bytes,
        "sha256": found.first(SHA256_NAMES, found.is_text),
        "status": status if error else None,
        "error": error if status else None,
    }


class _Found:
    """The columns that are there, looked up by name whatever their case."""

    def __init__(self, fields: list[pa.Field]) -> None:
        self._types = {field.name: field.type for field in fields}
        self._twice = {name for name, n in Counter(f.name for f in fields).items() if n > 1}
        self._spelt: dict[str, str] = {}
        for name in (field.name for field in fields):
            is_twin = name.lower() in self._spelt
            twin = self._spelt.setdefault(name.lower(), name)
            if is_twin and name.lower() in RECOGNISED:
                raise ManifestError(
                    f"expected one column {name.lower()!r}, got {twin!r} and {name!r}; rename one"
                )

    def first(self, names: Iterable[str], fits: Callable[[str], bool]) -> str | None:
        spelt = (self._spelt.get(name) for name in names)
        return next((name for name in spelt if name is not None and fits(name)), None)

    def override(self, parameter: str, name: str | None) -> str | None:
        if name is None:
            return None
        spelt = name if name in self._types else self._spelt.get(name.lower())
        if spelt is None:
            raise ManifestError(f"`{parameter}` names {name!r}, the manifest has {self.listing()}")
        if spelt in self._twice:
            raise ManifestError(f"`{parameter}` names {spelt!r}, which two columns are called")
        return spelt

    def absent(self, what: str, parameter: str, names: Iterable[str], others: str) -> ManifestError:
        for spelt in (self._spelt.get(name) for name in names):
            if spelt is not None:
                return self.unfit(spelt, what, parameter)
        expected = ", ".join(dict.fromkeys(names))
        return ManifestError(
            f"no {what} column found: expected one of {expected}, the manifest has "
            f"{self.listing()}; name it with `{parameter}`, or embed {others} alone with "
            f"`pairs={others!r}`"
        )

    def unfit(self, name: str, what: str, parameter: str) -> ManifestError:
        return ManifestError(
            f"column {name!r} is {self._types[name]}, which is no {what}; name another with "
            f"`{parameter}`, or convert it"
        )

    def listing(self) -> str:
        return "columns " + ", ".join(sorted(self._types)) if self._types else "no columns"

    def is_bytes(self, name: str) -> bool:
        """Binary, or Hugging Face's struct of bytes and path; or a list of one."""
        kind = element_type(self._types[name])
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return plain_type(kind) in (pa.binary(), pa.large_binary())

    def is_text(self, name: str) -> bool:
        return _is_text(self._types[name])

    def is_text_or_list(self, name: str) -> bool:
        """Text, or a list: of one image, or of the captions of one."""
        return _is_text(element_type(self._types[name]))

    def is_scalar(self, name: str) -> bool:
        return not pa.types.is_nested(self._types[name])


def _is_text(kind: pa.DataType) -> bool:
    return plain_type(kind) in (pa.string(), pa.large_string(), pa.null())


def element_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type of a list's elements; of what is no list the type itself."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return kind.value_type if any(is_such(kind) for is_such in lists) else kind


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type of the same values without what only saves memory: categories, views."""
    return mapped_type(kind, _plain_leaf)


def mapped_type(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Returns the type with what is no list, map or struct, at any depth, replaced by `leaf`; lists
    of a fixed size are lists like others."""
    if element_type(kind) is not kind:
        return pa.list_(mapped_type(kind.value_type, leaf))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, mapped_type(kind.item_type, leaf))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, mapped_type(f.type, leaf)) for f in kind])
    return leaf(kind)


def _plain_leaf(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


RECOGNISED = frozenset(
    (*UID_NAMES, *IMAGE_URI_NAMES, *IMAGE_BYTES_NAMES, *TEXT_NAMES, *SHA256_NAMES)
)
