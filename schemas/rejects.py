"""The rejects table: one row for every manifest row that could not be embedded."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import pyarrow as pa

from schemas.embeddings import row_fields, with_kept
from schemas.pairs import BOTH

MAX_DETAIL_CHARS = 300
FAULT_FIELDS = (
    pa.field("stage", pa.string(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("detail", pa.string()),
)


class Reason(str, Enum):
    """Why a row was rejected: a closed list, so that counts can be compared between runs."""

    # read
    MANIFEST_UNREADABLE = "manifest_unreadable"
    MANIFEST_TRUNCATED = "manifest_truncated"
    MALFORMED_ROW = "malformed_row"
    MISSING_IMAGE = "missing_image"
    NOT_DOWNLOADED = "not_downloaded"
    EMPTY_TEXT = "empty_text"
    # fetch
    NOT_ALLOWED = "not_allowed"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    OPTED_OUT = "opted_out"
    TOO_LARGE = "too_large"
    FETCH_FAILED = "fetch_failed"
    HASH_MISMATCH = "hash_mismatch"
    # decode
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED_IMAGE = "truncated_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    EXTREME_ASPECT = "extreme_aspect"
    DEEP_PIXELS = "deep_pixels"
    DECODE_FAILED = "decode_failed"
    DECODE_TIMEOUT = "decode_timeout"
    # encode
    NON_FINITE = "non_finite"
    OUT_OF_MEMORY = "out_of_memory"
    ENCODE_FAILED = "encode_failed"


# What trying again cannot mend: the manifest says so, or who publishes the image. All else may
# pass, or be mended where the image is.
STAYS = (Reason.MISSING_IMAGE, Reason.EMPTY_TEXT, Reason.NOT_DOWNLOADED, Reason.OPTED_OUT)


def rejects_schema(kept: Iterable[pa.Field] = (), pairs: str = BOTH) -> pa.Schema:
    """Returns the schema of the rejects table.

    Args:
        kept: columns copied from the manifest, as in the embeddings table.
        pairs: which halves of pairs there are.

    Raises:
        ValueError: if a kept column has the name of another column.
    """
    return with_kept([*row_fields(pairs), *FAULT_FIELDS], kept)
