"""Images in chosen clusters: DataComp's image-based rule, by the centroid that is nearest."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines.curation.rules import Rule
from pipelines.output.scored_tables import embedding_matrix
from pipelines.storage import reading

MAX_FILE_BYTES = 4 << 30
OWN_ROWS, CENTROIDS = 1024, 4096  # compared at once: 16 MB


def cluster_rule(centroids: str, targets: str, column: str, dim: int) -> Rule:
    """Keeps rows whose nearest centroid, by the inner product, is one of some.

    Args:
        centroids: an `.npy` file, [clusters, dim] floats.
        targets: an `.npy` file, [any] whole numbers: the clusters that are kept.
        column: the images' embeddings.
        dim: of these.

    Raises:
        ValueError, OSError: if a file is not there, or something else.
    """
    shape, wanted = _loaded(centroids).shape, _array(targets)
    if len(shape) != 2 or shape[1] != dim or not shape[0]:
        raise ValueError(
            f"expected `centroids` of {dim} numbers each, as the embeddings, got an array of shape "
            f"{list(shape)}"
        )
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or not len(wanted):
        raise ValueError("expected the numbers of clusters as `target_clusters`, got another array")
    if wanted.min() < 0 or wanted.max() >= shape[0]:
        raise ValueError(
            f"expected numbers from 0 to {shape[0] - 1} as `target_clusters`, got "
            f"{wanted.min()} to {wanted.max()}"
        )
    keeps = _InClusters(centroids, tuple(sorted(set(wanted.tolist()))), column)
    return Rule(f"in {len(keeps.targets):,} of {shape[0]:,} clusters", (column,), keeps)


def nearest_centroids(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns [rows] int64: which centroid has the largest inner product, the first of equal ones.

    Args:
        vectors: [rows, dim] float32.
        centroids: [clusters, dim] float32.
    """
    best = np.full(len(vectors), -np.inf, np.float32)
    found = np.zeros(len(vectors), np.int64)
    for first in range(0, len(centroids), CENTROIDS):
        products = vectors @ centroids[first : first + CENTROIDS].T
        places = products.argmax(axis=1)
        values = products[np.arange(len(vectors)), places]
        better = values > best
        best[better], found[better] = values[better], first + places[better]
    return found


@dataclass(frozen=True)
class _InClusters:
    """A rule's function; it takes the file's name to a worker, and not the centroids."""

    centroids: str
    targets: tuple[int, ...]
    column: str

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        vectors, centroids = embedding_matrix(batch[self.column]), _loaded(self.centroids)
        starts = range(0, len(vectors), OWN_ROWS)
        blocks = [nearest_centroids(vectors[at : at + OWN_ROWS], centroids) for at in starts]
        nearest = np.concatenate([np.empty(0, np.int64), *blocks])
        return np.isin(nearest, self.targets)


@lru_cache(maxsize=1)
def _loaded(uri: str) -> np.ndarray:
    return _array(uri).astype(np.float32, copy=False)


def _array(uri: str) -> np.ndarray:
    try:
        data = reading.read_retried(uri, MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise ValueError(f"expected an `.npy` file, got {uri!r}, which is not there") from error
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(f"expected an `.npy` file, got {uri!r}, which is none") from error
