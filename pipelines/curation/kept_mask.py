"""Which rows of a run are still kept, step by step: one byte a row, whatever the tables hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.curation.rules import Rule
from pipelines.engine.per_file import Workers, begun, over_files, side_by_side
from pipelines.output.arrow_rows import plain_array
from pipelines.output.scored_tables import ScoredTables, iterate_batches

Progress = Callable[[int], object]
_RULES = threading.Lock()  # some have databases or models, which are not for several threads


@dataclass(frozen=True)
class Part:
    """What is kept of one file.

    Attributes:
        start: number of the file's first row.
        kept: [rows of the file] bool.
    """

    uri: str
    start: int
    kept: np.ndarray

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yields [rows] places in the file and columns of the kept rows; never an empty batch."""
        first = 0
        for batch in iterate_batches(self.uri, columns):
            found = np.flatnonzero(self.kept[first : first + len(batch)])
            if len(found):
                yield first + found, batch.take(plain_array(found))
            first += len(batch)


class Selection:
    """Rows of the embeddings tables, numbered through all files in their order.

    Args:
        progress: called with the number of rows of each file that was read.
        options: slots or workers of Beam that are to apply rules; None for this process.

    Attributes:
        kept: [rows] bool.
        steps: what was done and how many rows were left after it.
    """

    def __init__(
        self,
        tables: ScoredTables,
        progress: Progress = lambda rows: None,
        options: Workers | None = None,
    ) -> None:
        self._uris = tables.embeddings
        counts = tables.row_counts.of(tables.embeddings)
        self._starts = np.cumsum([0, *counts])
        self._progress = progress
        self._options = options
        self.kept = np.ones(sum(counts), bool)
        self.steps: list[tuple[str, int]] = [("embedded", sum(counts))]

    @property
    def rows(self) -> int:
        """Rows that are kept."""
        return int(np.count_nonzero(self.kept))

    def parts(self) -> list[Part]:
        """Returns what is kept of each file, in order; files of which nothing is are left out."""
        bounds = zip(self._uris, self._starts, self._starts[1:], strict=False)
        parts = (Part(uri, int(start), self.kept[start:end]) for uri, start, end in bounds)
        return [part for part in parts if part.kept.any()]

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yields [rows] numbers and columns of the kept rows, in order; never an empty batch."""
        parts = self._parts_counted()
        opened = side_by_side(lambda part: begun(part.batches(columns)), parts)
        for part, batches in zip(parts, opened, strict=True):
            for places, batch in batches:
                yield part.start + places, batch
            self._progress(len(part.kept))

    def apply(self, rules: Sequence[Rule]) -> None:
        """Drops the rows that break a rule, in one pass; each rule sees what the last one kept."""
        left = np.zeros(len(rules), np.int64)
        parts = self._parts_counted()
        found = over_files(partial(keep_by_rules, tuple(rules)), parts, self._options)
        for part, (places, counts) in zip(parts, found, strict=True):
            part.kept[:] = False
            part.kept[places] = True
            left += counts
            self._progress(len(part.kept))
        self.steps.extend((rule.name, int(n)) for rule, n in zip(rules, left, strict=True))

    def drop(self, numbers: np.ndarray, step: str) -> None:
        """Drops rows by number, as the step with a name."""
        self.kept[numbers] = False
        self.steps.append((step, self.rows))

    def _parts_counted(self) -> list[Part]:
        """Returns `parts`; the rows of the other files count as read."""
        parts = self.parts()
        self._progress(len(self.kept) - sum(len(part.kept) for part in parts))
        return parts


def keep_by_rules(rules: Sequence[Rule], part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Returns [rows] the places in the file that keep all rules, [rules] the rows after each."""
    columns = list(dict.fromkeys(name for rule in rules for name in rule.columns))
    left = np.zeros(len(rules), np.int64)
    found = [np.empty(0, np.int64)]
    for places, batch in part.batches(columns):
        with _RULES:
            for index, rule in enumerate(rules):
                keeps = rule.keeps(batch)
                places, batch = places[keeps], batch.take(plain_array(np.flatnonzero(keeps)))
                left[index] += len(places)
        found.append(places)
    return np.concatenate(found), left
