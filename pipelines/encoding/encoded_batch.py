"""The rows of a batch of chunks side by side, and what the models make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.encoding.model_inputs import Inputs
from pipelines.engine.chunks import reject_rows
from pipelines.records import Chunk, RowFault, Vectors
from schemas.rejects import Reason

NOT_FINITE = RowFault("encode", Reason.NON_FINITE, "the model gave NaN or infinity")


@dataclass(frozen=True, eq=False)
class RowsOfBatch:
    """Rows of several chunks, or a part of them.

    Attributes:
        blocks: for each distinct preprocessing, the images of each chunk, [images, 3, size, size].
        index: [rows] int, which image of all blocks a row has.
        tokens, truncated: for each distinct tokenizer [rows, context_length] int64, [rows] bool.
    """

    blocks: tuple[tuple[np.ndarray, ...], ...]
    index: np.ndarray
    tokens: tuple[np.ndarray, ...]
    truncated: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> RowsOfBatch:
        """Joins the rows that have not failed."""
        filled = [chunk for chunk in chunks if chunk.rows.num_rows]
        if not filled:
            return cls((), np.empty(0, int), (), ())
        used = [np.unique(chunk.index, return_inverse=True) for chunk in filled]
        firsts = np.cumsum([0, *(len(images) for images, _ in used)])
        index = [position + first for (_, position), first in zip(used, firsts[:-1], strict=True)]
        blocks = [
            tuple(
                pixels if len(images) == len(pixels) else pixels[images]
                for pixels, (images, _) in zip(of_chunks, used, strict=True)
            )
            for of_chunks in zip(*(chunk.pixels for chunk in filled), strict=True)
        ]
        return cls(
            tuple(blocks),
            np.concatenate(index),
            _joined([chunk.tokens for chunk in filled]),
            _joined([chunk.truncated for chunk in filled]),
        )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: slice) -> RowsOfBatch:
        """Returns some of the rows, with the images that they have."""
        if part.indices(len(self)) == (0, len(self), 1):
            return self
        images, index = np.unique(self.index[part], return_inverse=True)
        return RowsOfBatch(
            tuple((np.concatenate(blocks)[images],) for blocks in self.blocks),
            index,
            tuple(array[part] for array in self.tokens),
            tuple(array[part] for array in self.truncated),
        )

    def parts(self, most: int) -> Iterator[RowsOfBatch]:
        """Yields parts of so many rows, but for an image that has more captions: none is cut, as it
        would be encoded twice."""
        if len(self) <= most:
            yield self
            return
        ends, first = np.append(np.flatnonzero(np.diff(self.index)) + 1, len(self)), 0
        while first < len(self):
            fits, next_one = np.searchsorted(ends, [first + most, first], side="right")
            end = int(ends[max(fits - 1, next_one)])
            yield self[first:end]
            first = end

    def give_out(self, chunks: Sequence[Chunk], encoded: Encoded) -> None:
        """Gives each chunk its vectors, and gives back what its pixels held."""
        first = 0
        for chunk in chunks:
            rows = slice(first, first + chunk.rows.num_rows)
            first = rows.stop
            chunk.vectors = tuple(vectors.of(rows) for vectors in encoded.vectors)
            chunk.pixels = chunk.tokens = chunk.truncated = ()
            own = range(rows.start, rows.stop)
            failed = {n - rows.start: f for n, f in encoded.faults.items() if n in own}
            reject_rows(chunk, failed)
            if chunk.lease is not None:
                chunk.lease.give_back()
                chunk.lease = None


@dataclass(frozen=True, eq=False)
class Encoded:
    """Vectors of rows by each model, and the rows that have none.

    Attributes:
        faults: by position of the row.
    """

    vectors: tuple[Vectors, ...]
    faults: Mapping[int, RowFault]

    @classmethod
    def of(cls, vectors: Sequence[Vectors]) -> Encoded:
        """Takes vectors as the models gave them, and finds those that are not finite."""
        halves = [half for found in vectors for half in found.halves]
        finite = np.ones(len(halves[0]), bool)
        for half in halves:
            finite &= np.isfinite(half).all(axis=1)
        return cls(tuple(vectors), {int(row): NOT_FINITE for row in np.flatnonzero(~finite)})

    @classmethod
    def blank(
        cls, dims: Sequence[int], inputs: Sequence[Inputs], rows: int, fault: RowFault | None = None
    ) -> Encoded:
        """Stands for rows without vectors: for none, or for one that could not be encoded."""
        vectors = []
        for dim, (pixels, tokens) in zip(dims, inputs, strict=True):
            zeros, none = np.zeros((rows, dim), np.float32), np.zeros(rows, bool)
            image, text = (None if own is None else zeros for own in (pixels, tokens))
            vectors.append(Vectors(image, text, None if tokens is None else none))
        return cls(tuple(vectors), {} if fault is None else {0: fault})

    @classmethod
    def joined(cls, pieces: Sequence[Encoded]) -> Encoded:
        """Puts the pieces of a batch one after the other."""
        if len(pieces) == 1:
            return pieces[0]
        of_models = zip(*(piece.vectors for piece in pieces), strict=True)
        vectors = tuple(
            Vectors(*(_concatenated(arrays) for arrays in zip(*parts, strict=True)))
            for parts in of_models
        )
        firsts = np.cumsum([0, *(len(piece.vectors[0].halves[0]) for piece in pieces)]).tolist()
        faults = {
            first + row: fault
            for piece, first in zip(pieces, firsts[:-1], strict=True)
            for row, fault in piece.faults.items()
        }
        return cls(vectors, faults)


def _concatenated(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [array for array in arrays if array is not None]
    return np.concatenate(there) if there else None


def _joined(arrays: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(parts) for parts in zip(*arrays, strict=True))
