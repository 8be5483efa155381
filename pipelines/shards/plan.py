"""Which rows of a run go into which shard: by their number alone, so a rerun plans the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROWS_PER_SHARD = 10_000
LEAST_DIGITS = 5  # of a shard's number, as img2dataset has them


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of one file of the embeddings table."""

    uri: str
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """Rows that are written together.

    Attributes:
        name: its number, in as many digits as those of its fellows.
        number, count: which of how many.
        pieces: its rows, in order.
        digits: of a row's number in a key.
    """

    name: str
    number: int
    count: int
    pieces: tuple[Piece, ...]
    digits: int

    @property
    def rows(self) -> int:
        """Rows that belong to the shard, whether their images are found or not."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def key(self, row: int) -> str:
        """Returns the key of a row of the shard: digits alone, of the shard and of the row."""
        return f"{self.name}{row:0{self.digits}d}"


def plan_shards(files: Sequence[tuple[str, int]], rows_per_shard: int) -> list[Shard]:
    """Cuts a table into shards of a number of rows; the last one may have fewer.

    Args:
        files: URIs and the rows of each, in order.
    """
    count = math.ceil(sum(rows for _, rows in files) / rows_per_shard)
    width = max(LEAST_DIGITS, len(str(max(count - 1, 0))))
    digits = max(1, len(str(rows_per_shard - 1)))
    pieces: list[list[Piece]] = [[] for _ in range(count)]
    row = 0
    for uri, rows in files:
        start = 0
        while start < rows:
            shard, within = divmod(row, rows_per_shard)
            stop = min(rows, start + rows_per_shard - within)
            pieces[shard].append(Piece(uri, start, stop))
            row, start = row + stop - start, stop
    return [
        Shard(f"{number:0{width}d}", number, count, tuple(found), digits)
        for number, found in enumerate(pieces)
    ]
