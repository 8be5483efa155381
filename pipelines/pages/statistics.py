"""Statistics of a run in one pass over its tables, in memory that does not grow with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine.per_file import Workers, over_files
from pipelines.output.scored_tables import ROW_COLUMNS, ScoredTables, iterate_batches
from pipelines.pages.examples import Examples
from pipelines.pages.histograms import BINS, similarity_bins
from pipelines.web.reject_counts import WebRejects

MAX_TEXT_CHARS = 1_000  # longer captions are counted as this long
MAX_SIDE = 10_000  # pixels; larger images are counted as this large
COLUMNS = ("similarity", *ROW_COLUMNS, "original_width", "original_height", "text_truncated")
REJECT_COLUMNS = ("stage", "reason", "caption_index", "url", "detail")


class Statistics:
    """Counters over the rows of a run.

    Args:
        examples: rows to keep, as `Examples` takes it.

    Attributes:
        rows: that were embedded, and have a finite similarity if the run has one.
        later_captions: records, rejected ones too, of an image that has an earlier caption.
        examples: some of the rows.
        similarity: [BINS] int64, rows by similarity.
        text_chars: [MAX_TEXT_CHARS + 1] int64, rows by length of the caption in characters.
        short_sides: [MAX_SIDE + 1] int64, rows by the image's shorter side in pixels.
        rejects: rejected rows by (stage, reason).
        web_rejects: those of the web, by host and by answer.
    """

    def __init__(self, examples: int) -> None:
        self.rows = self.later_captions = 0
        self.examples = Examples(examples)
        self.similarity = np.zeros(BINS, np.int64)
        self.text_chars = np.zeros(MAX_TEXT_CHARS + 1, np.int64)
        self.short_sides = np.zeros(MAX_SIDE + 1, np.int64)
        self.rejects: Counter[tuple[str, str]] = Counter()
        self.web_rejects = WebRejects()
        self.truncated = 0
        self._sum = 0.0

    @property
    def mean(self) -> float:
        """Mean similarity; 0 of no rows."""
        return self._sum / max(int(self.similarity.sum()), 1)

    @property
    def records(self) -> int:
        """Records that were read: embedded or rejected."""
        return self.rows + self.rejects.total()

    def add(self, batch: pa.RecordBatch) -> None:
        """Counts a batch with those of `COLUMNS` that the run's halves have."""
        names = batch.schema.names
        if "similarity" in names:
            batch = self._add_scores(batch)
        else:
            self.examples.add_drawn(batch)
        self.rows += len(batch)
        self._count_captions(batch)
        if "text" in names:
            _count(self.text_chars, pc.fill_null(pc.utf8_length(batch.column("text")), 0))
            self.truncated += pc.sum(batch.column("text_truncated")).as_py() or 0
        if "original_width" in names:
            sides = (batch.column("original_width"), batch.column("original_height"))
            _count(self.short_sides, pc.min_element_wise(*sides, skip_nulls=False).drop_null())

    def add_rejects(self, batch: pa.RecordBatch) -> None:
        """Counts a batch with those of `REJECT_COLUMNS` that the run's halves have."""
        stages, reasons = (batch.column(name).to_pylist() for name in ("stage", "reason"))
        self.rejects.update(zip(stages, reasons, strict=True))
        self._count_captions(batch)
        if "url" in batch.schema.names:
            urls, details = (batch.column(name).to_pylist() for name in ("url", "detail"))
            self.web_rejects.add(stages, urls, details)

    def merge(self, other: Statistics) -> None:
        """Adds the counters of other rows, taken with as many examples."""
        self.rows += other.rows
        self.later_captions += other.later_captions
        self.examples.merge(other.examples)
        self.similarity += other.similarity
        self.text_chars += other.text_chars
        self.short_sides += other.short_sides
        self.rejects += other.rejects
        self.web_rejects.merge(other.web_rejects)
        self.truncated += other.truncated
        self._sum += other._sum

    def _add_scores(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Counts similarities; returns the rows that have one."""
        scores = batch.column("similarity").to_numpy(zero_copy_only=False)
        batch = batch.filter(pa.array(np.isfinite(scores)))
        scores = scores[np.isfinite(scores)].astype(np.float64)
        bins = similarity_bins(scores)
        self.similarity += np.bincount(bins, minlength=BINS)
        self._sum += float(scores.sum())
        self.examples.add(batch, scores, bins)
        return batch

    def _count_captions(self, batch: pa.RecordBatch) -> None:
        self.later_captions += pc.sum(pc.greater(batch.column("caption_index"), 0)).as_py() or 0


def gather(
    tables: ScoredTables,
    examples: int,
    options: Workers | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Statistics:
    """Reads both tables once, the needed columns alone.

    Args:
        options: slots or workers of Beam that are to count; None for this process.
        progress: called with the number of rows of each file.
    """
    statistics = Statistics(examples)
    files = tables.embeddings + tables.rejects
    found = over_files(partial(_statistics_of_file, tables, examples), files, options)
    for uri, part in zip(files, found, strict=True):
        statistics.merge(part)
        progress(tables.rows_of([uri]))
    return statistics


def _statistics_of_file(tables: ScoredTables, examples: int, uri: str) -> Statistics:
    statistics = Statistics(examples)
    if uri in tables.rejects:
        for batch in iterate_batches(uri, tables.had(REJECT_COLUMNS)):
            statistics.add_rejects(batch)
    else:
        for batch in tables.batches(uri, tables.had(COLUMNS)):
            statistics.add(batch)
    return statistics


def _count(counts: np.ndarray, values: pa.Array) -> None:
    clipped = np.clip(values.to_numpy(zero_copy_only=False), 0, len(counts) - 1)
    counts += np.bincount(clipped, minlength=len(counts))
