"""The embeddings table: one row for every image-text pair that could be scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa

from schemas.pairs import BOTH, IMAGES, TEXTS, has_column

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


def embeddings_schema(
    dims: int | Mapping[str | None, int],
    dtype: str = "float32",
    *,
    scores_only: bool = False,
    kept: Iterable[pa.Field] = (),
    image_fields: Iterable[pa.Field] | None = None,
    pairs: str = BOTH,
) -> pa.Schema:
    """Returns the schema of the embeddings table.

    Args:
        dims: length of an embedding; for a run with several models, by their names.
        dtype: `float32`, which every warehouse reads, or `float16`.
        scores_only: whether the embedding columns are left out.
        kept: columns copied from the manifest; they come last.
        image_fields: columns computed from the image; `IMAGE_FIELDS` for None.
        pairs: which halves there are; the columns of the other are left out.

    Raises:
        ValueError: if `dtype` is neither, or a kept column has the name of another column.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    dims = {None: dims} if isinstance(dims, int) else dims
    image_fields = IMAGE_FIELDS if image_fields is None else image_fields
    own = [*row_fields(pairs), *(image_fields if pairs != TEXTS else ())]
    for name, dim in dims.items():
        vector = pa.list_(DTYPES[dtype], dim)
        types = (pa.float32(), pa.bool_(), *(() if scores_only else (vector, vector)))
        own += [
            pa.field(model_column(column, name), kind)
            for column, kind in zip(MODEL_COLUMNS, types, strict=False)
            if has_column(pairs, column)
        ]
    return with_kept(own, kept)


def row_fields(pairs: str = BOTH) -> list[pa.Field]:
    """Returns what each table has of a row."""
    return [field for field in ROW_FIELDS if has_column(pairs, field.name)]


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
    as `caption_similarity` is none; of one half by its embedding, which no kept column has the type
    of. A run of one model, whose columns have no name, has none.
    """
    pairs = pairs_of(schema)
    own, also = _TOLD_BY[pairs]
    if {own, also} <= set(schema.names):  # what looks like others was kept
        return []
    suffix = model_column(own, "")
    fields = (f for f in schema if f.name.endswith(suffix) and (pairs == BOTH or _is_vector(f)))
    found = [field.name.removesuffix(suffix) for field in fields]
    return [name for name in found if name and model_column(also, name) in schema.names]


def pairs_of(schema: pa.Schema) -> str:
    """Returns which halves the rows of a table have, by its embeddings."""
    vectors = [field.name for field in schema if _is_vector(field)]
    images, texts = (any(n.endswith(kind) for n in vectors) for kind in MODEL_COLUMNS[2:])
    if images == texts or MODEL_COLUMNS[0] in schema.names:
        return BOTH
    return IMAGES if images else TEXTS


def _is_vector(field: pa.Field) -> bool:
    """Tells an embedding from kept columns, whose lists have no fixed size."""
    return bool(pa.types.is_fixed_size_list(field.type))


MODEL_COLUMNS = ("similarity", "text_truncated", "image_embedding", "text_embedding")
_TOLD_BY = {
    BOTH: ("similarity", "text_truncated"),
    IMAGES: ("image_embedding", "image_embedding"),
    TEXTS: ("text_embedding", "text_truncated"),
}

ROW_FIELDS = (
    pa.field("uid", pa.string(), nullable=False),
    pa.field("source", pa.string()),
    pa.field("source_row", pa.int64()),
    pa.field("caption_index", pa.int64()),  # of the row's captions, from 0
    pa.field("url", pa.string()),
    pa.field("text", pa.string()),
)
MAX_CAPTIONS = 1000  # of a row of a manifest
# What tells a row of a table from all others, and the order of those of one source.
KEY_NAMES = ("source", "source_row", "caption_index")
KEY_ORDER = [(name, "ascending") for name in KEY_NAMES[1:]]
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
