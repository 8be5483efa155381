"""Which rows of a run are still kept, step by step: one byte a row, whatever the tables hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.row_rules import Rule
from pipelines.scored_tables import iterate_batches, row_count

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Part:
    """The kept rows of one file.

    Attributes:
        start: number of the file's first row.
        rows: [kept] int64, rows of the file, in order.
    """

    uri: str
    start: int
    rows: np.ndarray

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yields [rows] numbers and columns of the kept rows, in order; never an empty batch."""
        first = 0
        for batch in iterate_batches(self.uri, columns):
            low, high = np.searchsorted(self.rows, (first, first + len(batch)))
            found = self.rows[low:high]
            if len(found):
                yield self.start + found, batch.take(pa.array(found - first))
            first += len(batch)


class Selection:
    """Rows of the embeddings tables, numbered through all files in their order.

    Attributes:
        kept: [rows] bool.
        steps: what was done and how many rows were left after it.
    """

    def __init__(self, uris: Sequence[str], progress: Progress = lambda rows: None) -> None:
        self._uris = tuple(uris)
        counts = [row_count([uri]) for uri in uris]
        self._starts = np.cumsum([0, *counts])
        self._progress = progress
        self.kept = np.ones(sum(counts), bool)
        self.steps: list[tuple[str, int]] = [("embedded", sum(counts))]

    @property
    def rows(self) -> int:
        """Rows that are kept."""
        return int(np.count_nonzero(self.kept))

    def parts(self) -> Iterator[Part]:
        """Yields what is kept of each file, in order."""
        for uri, start, end in zip(self._uris, self._starts, self._starts[1:], strict=False):
            yield Part(uri, int(start), np.flatnonzero(self.kept[start:end]))

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yields [rows] numbers and the columns of the kept rows, in order; never an empty batch.

        Files of which nothing is kept are not opened.
        """
        for part in self.parts():
            if len(part.rows):
                yield from part.batches(columns)
            self._progress(row_count([part.uri]))

    def apply(self, rules: Sequence[Rule]) -> None:
        """Drops the rows that break a rule, in one pass; each rule sees what the last one kept."""
        left = [0] * len(rules)
        columns = list(dict.fromkeys(name for rule in rules for name in rule.columns))
        for numbers, batch in self.batches(columns):
            self.kept[numbers] = False
            for index, rule in enumerate(rules):
                keeps = rule.keeps(batch)
                numbers, batch = numbers[keeps], batch.filter(pa.array(keeps))
                left[index] += len(numbers)
            self.kept[numbers] = True
        self.steps.extend((rule.name, rows) for rule, rows in zip(rules, left, strict=True))

    def drop(self, numbers: np.ndarray, step: str) -> None:
        """Drops rows by number, as the step with a name."""
        self.kept[numbers] = False
        self.steps.append((step, self.rows))
