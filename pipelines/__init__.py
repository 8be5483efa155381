"""The Beam side of clip-beam: a file for each command, a room for each matter.

    from clip_beam import EmbedRows, ReadManifest, WriteUnits

    ReadManifest > EmbedRows (Prepare > RunInference > Score) > WriteUnits

What passes is a chunk (`pipelines.records.Chunk`): some dozens of rows of one unit, rejects among
them. A unit is read, encoded and written by one worker, and nothing is shuffled behind the reader.
docs/architecture.md says which room holds what, and which may import which.

Importing this package imports `clip_core`, which bounds how long OpenMP's threads spin, and nothing
else: torch and Beam are loaded with the first use of a name below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import clip_core  # noqa: F401

if TYPE_CHECKING:
    from pipelines.encoding.embed_rows import EmbedRows, ToChunks, ToRows
    from pipelines.images.columns import ImageColumn, register_image_column
    from pipelines.images.fetch import FetchPolicy
    from pipelines.manifests.formats import register_format
    from pipelines.manifests.read import ReadManifest
    from pipelines.manifests.request import ManifestFormat, ManifestRequest
    from pipelines.output.write_units import WriteUnits
    from pipelines.records import Row

__all__ = [
    "EmbedRows",
    "FetchPolicy",
    "ImageColumn",
    "ManifestFormat",
    "ManifestRequest",
    "ReadManifest",
    "Row",
    "ToChunks",
    "ToRows",
    "WriteUnits",
    "register_format",
    "register_image_column",
]
_HOMES = {
    "EmbedRows": "encoding.embed_rows",
    "FetchPolicy": "images.fetch",
    "ImageColumn": "images.columns",
    "ManifestFormat": "manifests.request",
    "ManifestRequest": "manifests.request",
    "ReadManifest": "manifests.read",
    "Row": "records",
    "ToChunks": "encoding.embed_rows",
    "ToRows": "encoding.embed_rows",
    "WriteUnits": "output.write_units",
    "register_format": "manifests.formats",
    "register_image_column": "images.columns",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipelines.{_HOMES[name]}"), name)
