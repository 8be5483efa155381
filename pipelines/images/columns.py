"""The columns that are computed from an image. One that is added is a field in
`schemas.embeddings.IMAGE_FIELDS` and a function here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.images.decode import DecodedImage
from schemas.embeddings import IMAGE_FIELDS, MODEL_COLUMNS, ROW_FIELDS

Compute = Callable[[bytes, DecodedImage], Any]


@dataclass(frozen=True)
class ImageColumn:
    """A column of the embeddings table that an image alone decides.

    Attributes:
        field: its name and type.
        compute: returns the value of an encoded image and what was decoded of it. It runs in
            threads, as images are decoded; a `RowFault` that it raises rejects the rows of the
            image, and another error ends the run.
    """

    field: pa.Field
    compute: Compute


def _original_width(data: bytes, image: DecodedImage) -> int:
    return image.original_width


def _original_height(data: bytes, image: DecodedImage) -> int:
    return image.original_height


def _sha256(data: bytes, image: DecodedImage) -> str:
    return hashlib.sha256(data).hexdigest()


_COMPUTE: Mapping[str, Compute] = {
    "original_width": _original_width,
    "original_height": _original_height,
    "sha256": _sha256,
}
OWN_COLUMNS = tuple(ImageColumn(field, _COMPUTE[field.name]) for field in IMAGE_FIELDS)
_added: dict[str, ImageColumn] = {}


def register_image_column(column: ImageColumn) -> None:
    """Adds a column from outside to the runs of this process; jobs take it to their workers.

    Raises:
        ValueError: if the table has a column of this name already.
    """
    name = column.field.name
    own = {field.name for field in (*ROW_FIELDS, *IMAGE_FIELDS)} | set(MODEL_COLUMNS)
    if name.lower() in own or _added.get(name, column) != column:
        raise ValueError(f"the embeddings table has a column {name!r} already; choose another name")
    _added[name] = column


def image_columns() -> tuple[ImageColumn, ...]:
    """Returns the columns of a run that begins now, in the order of the table."""
    return (*OWN_COLUMNS, *_added.values())


def added_columns() -> tuple[str, ...]:
    """Returns the names of those that were added from outside."""
    return tuple(_added)
