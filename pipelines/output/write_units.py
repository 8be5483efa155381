"""Writes one Parquet file per unit, after checking that no row of the unit was lost."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.engine import failures
from pipelines.engine.ledger import MAX_OPEN_UNITS, MAX_WAITING_ROWS
from pipelines.engine.tally import TALLY
from pipelines.output.layout import EMBEDDINGS, REJECTS, Output, OutputLayout
from pipelines.output.parquet import ROW_GROUP_BYTES
from pipelines.output.unit_record import NotARecordError, find_record, is_whole
from pipelines.output.unit_writer import ConservationError, UnitWriter
from pipelines.records import Chunk, Unit, UnitResult
from pipelines.storage import listing, uris
from pipelines.storage.stores import is_local

__all__ = ["ConservationError", "WriteUnits", "WrittenBy"]

# Units that get their files at once in a process, by whether these lie on this machine: a store
# takes its time for each. One more unit waits for one of them.
MAX_UPLOADS = {True: 2, False: 16}
_UPLOADS = {here: threading.BoundedSemaphore(most) for here, most in MAX_UPLOADS.items()}
_LISTED_S = 60.0  # for which it is known which files are in a store
_LISTING = threading.Lock()


@dataclass(frozen=True)
class WrittenBy:
    """Returns what became of a unit that a run has written already, in an attempt before this one;
    None for others. Of a store the files are listed now and then; what is newer is written again,
    and stays as it is."""

    layout: OutputLayout

    def __call__(self, unit: Unit) -> UnitResult | None:
        if not self.layout.run or not self._may_be_there(unit.unit_id):
            return None
        try:
            embeddings = find_record(self.layout.uri(EMBEDDINGS, unit.unit_id))
            if embeddings is None or embeddings.by[:2] != (self.layout.output_id, self.layout.run):
                return None
            rejects = find_record(self.layout.uri(REJECTS, unit.unit_id))
        except NotARecordError:
            return None
        return embeddings.result if is_whole(embeddings, rejects) else None

    def _may_be_there(self, unit_id: str) -> bool:
        if is_local(self.layout.root):
            return True
        with _LISTING:
            files = _listed(self.layout.root, int(time.monotonic() / _LISTED_S))
        return self.layout.uri(EMBEDDINGS, unit_id) in files


@lru_cache(maxsize=4)
def _listed(root: str, period: int) -> frozenset[str]:
    return frozenset(listing.list_files(uris.join(root, EMBEDDINGS)))


class WriteUnits(beam.PTransform):
    """Writes the rows of each unit in manifest order, to OUTPUT/embeddings and OUTPUT/rejects.

    The files of a unit get their names when each of its chunks has come once and the counts add
    up. That is done in a thread of its own, while the next unit is written.

    Consumes: `Chunk` with similarities; those of a unit in one bundle, as the line brings them.
    Produces: a `UnitResult` for each unit, once its files are in place.
    Counters: `write_usec`; the results hold the counts.

    Args:
        output: directory URI; or that, and what the tables look like.
        models, fingerprint: those of `EmbedRows`: names of several models, and what decides the
            values, which is kept in every file's metadata.
        embedding_dtype: `float32` or `float16`.
        scores_only: whether the embedding columns are left out.
        check_held: called before a unit gets its files; raises if the output is another run's now.
        tell: called with what became of a unit once its files are in place.

    Raises:
        ConservationError: in the job, when rows read are not rows embedded plus rows rejected.
    """

    def __init__(
        self,
        output: str | OutputLayout,
        *,
        models: Sequence[str | None] = (None,),
        fingerprint: Mapping[str, Any] | None = None,
        embedding_dtype: str = "float32",
        scores_only: bool = False,
        check_held: Callable[[], object] = lambda: None,
        tell: Callable[[UnitResult], object] = lambda result: None,
    ) -> None:
        super().__init__()
        if isinstance(output, str):
            root = uris.normalize(output)
            about = Output(root, fingerprint or {}, tuple(models), embedding_dtype, scores_only)
        self._write = _Write(about if isinstance(output, str) else output, check_held, tell)

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[UnitResult]:
        return chunks | "Write" >> beam.ParDo(self._write).with_output_types(UnitResult)


class _Write(beam.DoFn):
    def __init__(
        self,
        output: OutputLayout | Output,
        check_held: Callable[[], object],
        tell: Callable[[UnitResult], object],
    ) -> None:
        self._output, self._tell = output, tell
        self._run = output.run if isinstance(output, OutputLayout) else ""
        self._check_held, self._is_local = check_held, is_local(output.root)
        self._usec = Metrics.counter(WriteUnits, "write_usec")

    def setup(self) -> None:
        self._attempt = secrets.token_hex(4)
        self._pool = ThreadPoolExecutor(MAX_UPLOADS[self._is_local])
        self._lock = threading.Lock()  # `teardown` may come from another thread
        self._given_up = threading.Event()
        self._open: dict[str, UnitWriter] = {}

    def start_bundle(self) -> None:
        self._open = {}
        self._done: set[str] = set()
        self._uploads: deque[Future[UnitResult]] = deque()
        failures.writing(self, self._run, True)

    def process(self, chunk: Chunk) -> Iterator[UnitResult]:
        with failures.ends_the_run(self._run), self._lock, self._timed():
            failures.check(self._run, self._given_up.is_set())
            self._take(chunk)
        most = MAX_UPLOADS[self._is_local]
        while self._uploads and (len(self._uploads) > most or self._uploads[0].done()):
            yield self._uploaded()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._uploads:
            yield WindowedValue(self._uploaded(), MIN_TIMESTAMP, (GlobalWindow(),))
        with failures.ends_the_run(self._run), self._lock:
            failures.check(self._run, self._given_up.is_set())
            if self._open:
                raise ConservationError(
                    f"chunks of unit {min(self._open)} did not come; nothing of it is written; run "
                    "again, and report this as a bug"
                )
        failures.writing(self, self._run, False)

    def teardown(self) -> None:
        """Gives up what is open: Beam calls no `finish_bundle` for a bundle that failed."""
        self._given_up.set()
        with self._lock:  # what is at work may hand one more unit to the pool
            for writer in self._open.values():
                writer.discard()
            self._open = {}
        self._pool.shutdown()  # those that wait there see that it is given up, and leave nothing
        failures.writing(self, self._run, False)

    def _take(self, chunk: Chunk) -> None:
        if chunk.unit is None:
            raise ValueError(
                "expected chunks of units, as `ReadManifest` makes them, got rows of one's own; "
                "write those with a sink of your own, behind `ToRows`"
            )
        name = chunk.unit.unit_id
        if name in self._done:
            raise ConservationError(f"unit {name}: chunk {chunk.number} came after the end")
        if name not in self._open:
            self._open[name] = UnitWriter(self._layout_of(chunk), chunk.unit, self._attempt)
        writer = self._open[name]
        reasons = Counter(chunk.rejects["reason"].to_pylist())
        TALLY.add(chunk.source_rows, chunk.rows.num_rows, reasons)
        writer.add(chunk)
        self._keep_bounds()
        if writer.is_complete:
            self._complete(name, writer)

    def _layout_of(self, chunk: Chunk) -> OutputLayout:
        if isinstance(self._output, Output):
            return OutputLayout.of_chunk(chunk, self._output)
        return self._output

    def _complete(self, name: str, writer: UnitWriter) -> None:
        result = writer.close()
        del self._open[name]
        self._done.add(name)
        self._uploads.append(self._pool.submit(self._publish, writer, result))

    def _publish(self, writer: UnitWriter, result: UnitResult) -> UnitResult:
        try:
            with _UPLOADS[self._is_local]:
                failures.check(self._run, self._given_up.is_set())
                self._check_held()
                writer.publish(self._check_held)
        except BaseException as error:
            failures.stop(self._run, error)
            writer.discard()
            raise
        TALLY.add_unit()
        self._tell(result)
        return result

    def _uploaded(self) -> UnitResult:
        with failures.ends_the_run(self._run), self._timed():
            return self._uploads.popleft().result()

    def _keep_bounds(self) -> None:
        """Writes a row group once too much waits for one, the largest first.

        How much waits for an earlier chunk, Prepare bounds; here that is checked, since this thread
        must bring what is missing and cannot wait for it.
        """
        writers = list(self._open.values())
        while sum(writer.waiting_bytes for writer in writers) > ROW_GROUP_BYTES:
            max(writers, key=lambda writer: writer.waiting_bytes).write_groups()
        waiting = sum(writer.waiting_rows for writer in writers)
        if waiting > MAX_WAITING_ROWS or len(writers) > MAX_OPEN_UNITS:
            raise ConservationError(
                f"{waiting} rows of {len(writers)} units wait for an earlier chunk, more than the "
                "line lets through; run again, and report this as a bug"
            )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._usec.inc(round((time.perf_counter() - began) * 1e6))
