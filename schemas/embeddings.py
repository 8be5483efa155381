"""The embeddings table: one row for every image-text pair that could be scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


def embeddings_schema(
    dims: int | Mapping[str | None, int],
    dtype: str = "float32",
    *,
    scores_only: bool = False,
    kept: Iterable[pa.Field] = (),
    image_fields: Iterable[pa.Field] | None = None,
) -> pa.Schema:
    """Returns the schema of the embeddings table.

    Args:
        dims: length of an embedding; for a run with several models, by their names.
        dtype: `float32`, which every warehouse reads, or `float16`.
        scores_only: whether the embedding columns are left out.
        kept: columns copied from the manifest; they come last.
        image_fields: columns computed from the image; `IMAGE_FIELDS` for None.

    Raises:
        ValueError: if `dtype` is neither, or a kept column has the name of another column.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    dims = {None: dims} if isinstance(dims, int) else dims
    own = [*ROW_FIELDS, *(IMAGE_FIELDS if image_fields is None else image_fields)]
    for name, dim in dims.items():
        vector = pa.list_(DTYPES[dtype], dim)
        types = (pa.float32(), pa.bool_(), *(() if scores_only else (vector, vector)))
        columns = (model_column(column, name) for column in MODEL_COLUMNS)
        own += [pa.field(column, kind) for column, kind in zip(columns, types, strict=False)]
    return with_kept(own, kept)


def model_column(column: str, model_name: str | None = None) -> str:
    """Returns the name of a column that depends on the model.

    Args:
        column: `similarity`, `text_truncated`, `image_embedding` or `text_embedding`.
        model_name: which model of a run with several, whose columns have its name in front; None
            for a run with one model.
    """
    return column if model_name is None else f"{model_name}_{column}"


def model_names(schema: pa.Schema) -> list[str]:
    """Returns the models of a run with several, in the order of its columns.

    A model is told by its `similarity` and `text_truncated` together, so that a kept column such
    as `caption_similarity` is none. A run of one model, whose columns have no name, has none.
    """
    if set(MODEL_COLUMNS[:2]) <= set(schema.names):  # what looks like others was kept
        return []
    suffix = model_column("similarity", "")
    found = [name.removesuffix(suffix) for name in schema.names if name.endswith(suffix)]
    return [name for name in found if name and model_column("text_truncated", name) in schema.names]


MODEL_COLUMNS = ("similarity", "text_truncated", "image_embedding", "text_embedding")

ROW_FIELDS = (
    pa.field("uid", pa.string(), nullable=False),
    pa.field("source", pa.string()),
    pa.field("source_row", pa.int64()),
    pa.field("url", pa.string()),
    pa.field("text", pa.string()),
)
# What an image alone decides; `pipelines.images.columns` computes it.
IMAGE_FIELDS = (
    pa.field("original_width", pa.int64()),
    pa.field("original_height", pa.int64()),
    pa.field("sha256", pa.string()),
)


def with_kept(own: Iterable[pa.Field], kept: Iterable[pa.Field]) -> pa.Schema:
    """Appends the manifest's columns to a table's own.

    Raises:
        ValueError: if a kept column has the name of another column. Case does not tell names
            apart in warehouses.
    """
    own, kept = list(own), list(kept)
    names = Counter(field.name.lower() for field in kept)
    names.update({*(field.name.lower() for field in own), *MODEL_COLUMNS})
    taken = [field.name for field in kept if names[field.name.lower()] > 1]
    if taken:
        raise ValueError(
            f"`keep_columns` names {', '.join(sorted(taken))}, which the output has already, "
            "perhaps in another case; leave it out or rename it in the manifest"
        )
    return pa.schema([*own, *kept])
