"""Equal images, of which the best is kept with all its rows: by SHA-256, in buckets on the disk."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO

import numpy as np
import pyarrow as pa

from pipelines.curation.duplicates.images import COLUMNS, Images, best_of_images
from pipelines.curation.kept_mask import Selection

BUCKET_BITS = 6  # 10 million rows: 64 files of 5 MB
# Half as long as the digest: the chance of two alike among a billion images is 1e-21.
_SHORT_BYTES = 16
_ENTRY = np.dtype(
    [("high", ">u8"), ("low", ">u8"), ("score", "f4"), ("row", "i8"), ("image", "i8")]
)


def exact_duplicates(selection: Selection, score: str | None) -> np.ndarray:
    """Returns [rows] int64: the numbers of the kept rows whose image is that of a better one.

    Rows are compared with those of other rows of a manifest; the captions of one image stay or go
    together, by their best. Better is the higher score, then the earlier row. Rows without a digest
    have no duplicates.

    Args:
        score: the column of the similarity; None for none, so that the earlier row is better.
    """
    with ExitStack() as stack:
        buckets = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(1 << BUCKET_BITS)]
        for entries in _entries(selection, score):
            _spill(entries, buckets)
        return np.concatenate([_worse(bucket) for bucket in buckets])


def _entries(selection: Selection, score: str | None) -> Iterator[np.ndarray]:
    images = Images()
    for numbers, batch in selection.batches(["sha256", *COLUMNS, *([score] if score else [])]):
        known = batch["sha256"].is_valid().to_numpy(zero_copy_only=False)
        digests = batch["sha256"].drop_null().to_pylist()
        entries = np.empty(len(digests), _ENTRY)
        halves = np.frombuffer(b"".join(map(_short, digests)), ">u8").reshape(-1, 2)
        entries["high"], entries["low"] = halves[:, 0], halves[:, 1]
        entries["score"] = scores_of(batch, score)[known]
        entries["row"] = numbers[known]
        entries["image"] = images.of_rows(numbers, batch)[known]
        yield entries


def _short(digest: str) -> bytes:
    return hashlib.blake2b(digest.encode(), digest_size=_SHORT_BYTES).digest()


def scores_of(batch: pa.RecordBatch, score: str | None) -> np.ndarray:
    """Returns [rows] float32 to order rows by: what is no number is worse than any."""
    if score is None:
        return np.zeros(len(batch), np.float32)
    values = batch[score].to_numpy(zero_copy_only=False).astype(np.float32)
    return np.where(np.isnan(values), np.float32(-np.inf), values)


def _spill(entries: np.ndarray, buckets: Sequence[IO[bytes]]) -> None:
    bucket_of = (entries["high"] >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
    for bucket in np.unique(bucket_of):
        buckets[bucket].write(entries[bucket_of == bucket].tobytes())


def _worse(bucket: IO[bytes]) -> np.ndarray:
    bucket.seek(0)
    entries = np.frombuffer(bucket.read(), _ENTRY)
    best, of_entry = best_of_images(entries["image"], entries["score"])
    order = np.lexsort((entries["image"], -best[of_entry], entries["low"], entries["high"]))
    found = entries[order]
    begins = np.ones(len(found), bool)
    begins[1:] = (found["high"][1:] != found["high"][:-1]) | (found["low"][1:] != found["low"][:-1])
    kept = found["image"][begins][np.cumsum(begins) - 1]
    return found["row"][found["image"] != kept]
