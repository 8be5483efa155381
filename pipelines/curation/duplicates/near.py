"""Images almost equal to a better one: locality-sensitive hashing, then the cosine.

Random hyperplanes (Charikar 2002) put vectors into buckets, several times over; only vectors that
share a bucket are compared, by their exact cosine. What is dropped is therefore never wrong; what
is missed is bounded by the number of tables, which is chosen for the threshold.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from pipelines.curation.duplicates.exact import scores_of
from pipelines.curation.duplicates.images import COLUMNS, Images, best_of_images
from pipelines.curation.kept_mask import Selection
from pipelines.output.scored_tables import embedding_matrix

MISSED = 0.01  # share of pairs right at the threshold that no table brings together
ROWS_PER_BUCKET = 64  # wanted on average
MIN_BITS, MAX_TABLES = 6, 48
SAMPLE_ROWS = 4096
BLOCK_ROWS = 1024  # of a bucket, compared at once with those before them
SEED = 0


@dataclass(frozen=True)
class Hashing:
    """Hash tables over centred vectors.

    CLIP's embeddings lie in a narrow cone, which planes through the origin hardly cut: the planes
    go through the mean instead.

    Attributes:
        planes: [dim, tables * bits] float32 normals.
        offsets: [tables * bits] float32, the mean's side of each plane.
        bits: of a table.
    """

    planes: np.ndarray
    offsets: np.ndarray
    bits: int

    @property
    def tables(self) -> int:
        """Number of hash tables."""
        return len(self.offsets) // self.bits

    def codes(self, vectors: np.ndarray) -> np.ndarray:
        """Returns [tables, rows] uint32, the buckets of each vector."""
        sides = (vectors @ self.planes > self.offsets).reshape(len(vectors), self.tables, self.bits)
        weights = np.left_shift(1, np.arange(self.bits), dtype=np.int64)
        return (sides @ weights).T.astype(np.uint32)


def near_duplicates(
    selection: Selection, embedding: str, score: str | None, threshold: float
) -> np.ndarray:
    """Returns [rows] int64: the numbers of the kept rows with an image near that of a better one.

    Better is the higher score of any of its rows, then the earlier one. A better one counts even if
    it is itself dropped, so the result does not depend on the order of the work. The vectors wait
    in a temporary file of images * dim * 4 bytes; memory holds some 40 bytes a row.

    Args:
        embedding, score: columns; None where there is no score.
        threshold: cosine, in (0, 1).
    """
    if selection.rows < 2:
        return np.empty(0, np.int64)
    with tempfile.TemporaryFile() as vectors_file, tempfile.TemporaryFile() as codes_file:
        vectors, scores, numbers, image_of = _fill(selection, embedding, score, vectors_file)
        # Best first, so that a row is compared with those before it.
        order = np.argsort(-scores, kind="stable")
        hashing = choose_hashing(_sample(vectors), len(vectors), threshold)
        codes = _hashed(vectors, hashing, codes_file)
        worse = np.zeros(len(vectors), bool)
        for table in range(hashing.tables):
            for bucket in _buckets(codes[table], order):
                _mark_worse(vectors, bucket, threshold, worse)
        return numbers[worse[image_of]]


def choose_hashing(sample: np.ndarray, rows: int, threshold: float) -> Hashing:
    """Chooses bits by the number of rows, and tables by what pairs at the threshold need.

    Args:
        sample: [rows, dim] float32, L2-normalised.
    """
    mean = sample.mean(axis=0)
    # For a given distance of two vectors, the angle seen from the mean is widest close to it.
    radius = float(np.quantile(np.linalg.norm(sample - mean, axis=1), 0.05))
    half_distance = math.sqrt(2 * (1 - threshold)) / 2
    angle = 2 * math.asin(min(half_distance / max(radius, half_distance), 1.0))
    # The chance of lying on one side of a random plane; one half is that of strangers.
    together = min(max(1 - angle / math.pi, 0.5), 1 - 1e-6)
    affordable = math.log(1 - MISSED ** (1 / MAX_TABLES)) / math.log(together)
    bits = int(np.clip(math.log2(max(rows / ROWS_PER_BUCKET, 1)), MIN_BITS, affordable))
    tables = math.ceil(math.log(MISSED) / math.log1p(-(together**bits)))
    generator = np.random.default_rng(SEED)
    planes = generator.standard_normal((sample.shape[1], tables * bits), np.float32)
    return Hashing(planes, mean @ planes, bits)


def _fill(
    selection: Selection, embedding: str, score: str | None, file: IO[bytes]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the vectors of the images, on the disk, and their best scores; of the kept rows the
    numbers, and which of the images each has."""
    rows, filled, written = selection.rows, 0, 0
    vectors = np.empty((0, 0), np.float32)
    scores = np.empty(rows, np.float32)
    numbers, firsts = np.empty(rows, np.int64), np.empty(rows, np.int64)
    images = Images()
    for found, batch in selection.batches([embedding, *COLUMNS, *([score] if score else [])]):
        part = slice(filled, filled + len(found))
        numbers[part], firsts[part] = found, images.of_rows(found, batch)
        scores[part] = scores_of(batch, score)
        filled += len(found)
        block = embedding_matrix(batch[embedding])[firsts[part] == found]
        if not written:
            vectors = np.memmap(file, np.float32, "w+", shape=(rows, block.shape[1]))
        vectors[written : written + len(block)] = block
        written += len(block)
    best, image_of = best_of_images(firsts, scores)
    return vectors[:written], best, numbers, image_of


def _sample(vectors: np.ndarray) -> np.ndarray:
    step = max(len(vectors) // SAMPLE_ROWS, 1)
    return np.array(vectors[::step])


def _hashed(vectors: np.ndarray, hashing: Hashing, file: IO[bytes]) -> np.ndarray:
    codes = np.memmap(file, np.uint32, "w+", shape=(hashing.tables, len(vectors)))
    for start in range(0, len(vectors), SAMPLE_ROWS):
        block = vectors[start : start + SAMPLE_ROWS]
        codes[:, start : start + len(block)] = hashing.codes(block)
    return codes


def _buckets(codes: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows of each bucket that holds several, best first."""
    ordered = codes[order]
    by_code = np.argsort(ordered, kind="stable")
    ends = np.flatnonzero(np.diff(ordered[by_code])) + 1
    for start, end in zip([0, *ends], [*ends, len(order)], strict=True):
        if end - start > 1:
            yield order[by_code[start:end]]


def _mark_worse(
    vectors: np.ndarray, bucket: np.ndarray, threshold: float, worse: np.ndarray
) -> None:
    """Marks the rows of a bucket that lie within the threshold of one before them."""
    for start in range(0, len(bucket), BLOCK_ROWS):
        block = bucket[start : start + BLOCK_ROWS]
        own = vectors[block]
        for first in range(0, start + 1, BLOCK_ROWS):
            better = own if first == start else vectors[bucket[first : first + BLOCK_ROWS]]
            near = own @ better.T >= threshold
            worse[block] |= (np.tril(near, -1) if first == start else near).any(axis=1)
