"""Which rows of a run are still kept, step by step: one byte a row, whatever the tables hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines.row_rules import Rule
from pipelines.scored_tables import iterate_batches, row_count

Progress = Callable[[int], object]


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

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yields [rows] numbers and the columns of the kept rows, in order; never an empty batch.

        Files of which nothing is kept are not opened.
        """
        for file in range(len(self._uris)):
            yield from self.batches_of(file, columns)

    def batches_of(
        self, file: int, columns: Sequence[str]
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yields what `batches` does of the file with an index."""
        start, end = self._starts[file : file + 2]
        if not self.kept[start:end].any():
            self._progress(int(end - start))
            return
        for batch in iterate_batches(self._uris[file], columns):
            found = np.flatnonzero(self.kept[start : start + len(batch)])
            if len(found):
                yield start + found, batch.take(pa.array(found))
            start += len(batch)
            self._progress(len(batch))

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
