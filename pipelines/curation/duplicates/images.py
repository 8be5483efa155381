"""Tells which rows are captions of one image, and how good an image is by the best of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("source", "source_row")  # rows of one image have both in common, and follow each other


class Images:
    """The images of rows that are looked at in the order of the tables."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None
        self._first = -1

    def of_rows(self, numbers: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        """Returns [rows] int64, the number of the first row that has each row's image.

        Args:
            numbers: [rows] int64, rising from batch to batch.
            batch: the next rows, with `COLUMNS`; at least one.
        """
        sources, rows = (batch[name] for name in COLUMNS)
        begins = np.ones(len(rows), bool)
        begins[1:] = _differs(sources) | _differs(rows)
        place = sources[0].as_py(), rows[0].as_py()
        begins[0] = place != self._last
        firsts = np.where(begins, numbers, self._first)
        images = np.maximum.accumulate(firsts)
        self._last, self._first = (sources[-1].as_py(), rows[-1].as_py()), int(images[-1])
        return images


def _differs(column: pa.Array) -> np.ndarray:
    """Returns [rows - 1] bool, where a value is another than the one before it."""
    found = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
    return found.to_numpy(zero_copy_only=False).astype(bool)


def best_of_images(images: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns [images] the best score of each image there is, and [rows] which of these it is."""
    found, of_row = np.unique(images, return_inverse=True)
    best = np.full(len(found), -np.inf, np.float32)
    np.maximum.at(best, of_row, scores)
    return best, of_row
