"""The labels table: the likeliest labels of every row that has an image embedding."""

from __future__ import annotations

import pyarrow as pa

from schemas.embeddings import KEY_NAMES, ROW_FIELDS

LABELLED_NAMES = ("uid", *KEY_NAMES)

# Both lists have one length in all rows; the likeliest label comes first.
LABELS_SCHEMA = pa.schema(
    [
        *(field for field in ROW_FIELDS if field.name in LABELLED_NAMES),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("probabilities", pa.list_(pa.float32())),
    ]
)
