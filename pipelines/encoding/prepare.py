"""Fetches, decodes and tokenises the rows of chunks ahead of the encoder, and forms its batches."""

from __future__ import annotations

import queue
import time
from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.encoding.image_work import STEPS, ImageWork, Job
from pipelines.encoding.work_threads import WorkThreads
from pipelines.engine import failures
from pipelines.engine.ledger import Ledger
from pipelines.images.pixel_budget import BUDGET, Account
from pipelines.records import Chunk

# Rejects and empty chunks weigh little, but not nothing: else a manifest of rejects would stay in
# memory until a batch is full.
WEIGHT_OF_BATCH = 4


@dataclass(eq=False)
class Prepare(beam.PTransform):
    """Prepares chunks in threads, and hands on batches of whole chunks.

    The encoder is fused to this stage: while it works on a batch, the threads prepare what follows.
    A chunk may overtake a slower one, as far as the writer can put them in order (`Ledger`).
    Nothing waits behind this stage.

    Consumes: `Chunk`, as `ReadManifest` and `ToChunks` make them.
    Produces: lists of `Chunk`, of at most `batch_size` rows that are to be encoded, or one chunk.
    Counters: `rows`, `rejects`; `fetch_usec`, `decode_usec`, `tokenize_usec`, summed over the
        threads; `wait_usec`, the time the encoder had to wait.

    Attributes:
        work: what is done with each row.
        batch_size: rows that are encoded at once.
        row_bytes: of the vectors of a row.
        threads: None for as many as `threads_for` lets fetch.
        run: whose failure ends this stage; "" for none.
    """

    work: ImageWork
    batch_size: int
    row_bytes: int = 0
    threads: int | None = None
    run: str = ""

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[list[Chunk]]:
        prepared = beam.ParDo(_Prepare(self)).with_output_types(list[Chunk])
        return chunks | "Prepare" >> prepared


@dataclass(eq=False)
class _Bundle:
    """What a bundle holds: a new one each time, so that one that failed leaves nothing behind.

    Attributes:
        line: jobs in their order that have not left, and behind the oldest some that have.
        landed: jobs, in their order, whose work is done and whose chunk has not left.
        working: jobs whose work goes on.
        ahead: rows that have come in and not gone out.
        weight: of what is in the batch, rejects among it.
    """

    ledger: Ledger
    account: Account = field(default_factory=Account)
    line: deque[Job] = field(default_factory=deque)
    landed: list[Job] = field(default_factory=list)
    batch: list[Job] = field(default_factory=list)
    working: int = 0
    ahead: int = 0
    jobs: int = 0
    rows: int = 0
    weight: int = 0

    def drop_left(self) -> None:
        """Forgets the oldest jobs that have left."""
        while self.line and self.line[0].left:
            self.line.popleft()

    def next_to_leave(self) -> Job | None:
        """Returns the oldest landed job whose chunk may go on. One that may not holds up none
        behind it: they may be what it waits for."""
        self.drop_left()
        may_leave = (j for j in self.landed if j is self.line[0] or self.ledger.may_leave(j.chunk))
        return next(may_leave, None)

    def add(self, job: Job) -> None:
        """Puts a landed job's chunk into the batch."""
        self.landed.remove(job)
        job.left = True
        self.batch.append(job)
        self.rows += job.chunk.rows.num_rows
        self.weight += job.size + 1
        self.ledger.leaves(job.chunk)

    def take_batch(self) -> list[Chunk]:
        """Returns the chunks of the batch and begins another."""
        chunks = [job.chunk for job in self.batch]
        self.ahead -= sum(job.size for job in self.batch)
        self.drop_left()
        for job in self.batch:  # some stay in the line behind one that has not left
            job.chunk = None  # type: ignore[assignment]
        self.batch, self.rows, self.weight = [], 0, 0
        return chunks


class _Prepare(beam.DoFn):
    def __init__(self, settings: Prepare) -> None:
        self._work, self._threads = settings.work, settings.threads
        self._batch_size, self._row_bytes = settings.batch_size, settings.row_bytes
        self._run = settings.run
        self._window = max(2 * self._batch_size, self._work.window_rows)
        self._rows = Metrics.counter(Prepare, "rows")
        self._rejects = Metrics.counter(Prepare, "rejects")
        self._usec = {name: Metrics.counter(Prepare, f"{name}_usec") for name in STEPS}
        self._wait = Metrics.counter(Prepare, "wait_usec")

    def setup(self) -> None:
        self._pool = WorkThreads(self._work, self._threads)
        self._bundle: _Bundle | None = None

    def start_bundle(self) -> None:
        self._bundle = _Bundle(Ledger(self._row_bytes))

    def process(self, chunk: Chunk) -> Iterator[list[Chunk]]:
        with failures.ends_the_run(self._run):
            failures.check(self._run)
        yield from self._let_in(chunk)
        yield from self._batches(wait=False)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        bundle = self._current
        while bundle.line or bundle.batch:
            for batch in self._batches(wait=True):
                yield WindowedValue(batch, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self) -> None:
        # Beam calls this from another thread while this bundle's own is in `process`, where a
        # sibling has failed: that one must wake and end.
        if self._bundle is not None:
            BUDGET.close(self._bundle.account)
        self._pool.close()

    @property
    def _current(self) -> _Bundle:
        assert self._bundle is not None, "Beam starts a bundle before it sends elements"
        return self._bundle

    def _let_in(self, chunk: Chunk) -> Iterator[list[Chunk]]:
        """Begins the work on a chunk once there is room; a whole one, as half of it could wait for
        ever for what only its leaving gives back."""
        bundle = self._current
        if not self._work.inputs.preprocesses:
            chunk.images = ()  # captions alone: none is fetched
        inline = sum(len(row.image_bytes or b"") for row in chunk.images)
        needed = len(chunk.images) * self._work.inputs.pixel_bytes + inline
        while not self._has_room(chunk, needed):
            yield from self._batches(wait=True)
            account = bundle.account
            if account.held and not bundle.line and not bundle.batch:
                raise RuntimeError(
                    "pixels have left Prepare and were not dropped in this process: the runner cut "
                    "the line behind it; give resource hints to the whole of it or to nothing"
                )
        bundle.jobs += 1
        bundle.ahead += chunk.size
        bundle.working += 1
        job = Job(chunk, self._work, bundle.account, bundle.jobs)
        bundle.line.append(job)
        self._pool.begin(job)

    def _has_room(self, chunk: Chunk, needed: int) -> bool:
        bundle = self._current
        if bundle.ahead and bundle.ahead + chunk.size > self._window:
            return False
        if needed:
            floor = min(self._batch_size * self._work.inputs.pixel_bytes, BUDGET.total // 2)
            chunk.lease = BUDGET.take(needed, bundle.account, floor)
        return not needed or chunk.lease is not None

    def _batches(self, wait: bool) -> Iterator[list[Chunk]]:
        """Yields full batches. To wait is to wait for one chunk or for room; where no work goes on,
        the batch goes as it is."""
        bundle, sent = self._current, False
        while True:
            if bundle.account.closed:
                failures.check(self._run, given_up=True)
            self._collect()
            if self._fill():
                sent = True
                yield bundle.take_batch()
            elif sent or not wait:
                return
            elif bundle.working:
                if not self._wait_for_one():
                    return  # others have given bytes back
            else:
                if bundle.batch:
                    yield bundle.take_batch()
                return

    def _collect(self) -> None:
        """Takes up the jobs that are done by now."""
        ready = self._current.account.ready
        while True:
            try:
                self._land(ready.get_nowait())
            except queue.Empty:
                return

    def _wait_for_one(self) -> bool:
        """Waits for a job or for room; returns whether it was a job."""
        began = time.perf_counter()
        job = self._current.account.ready.get()
        self._wait.inc(round((time.perf_counter() - began) * 1e6))
        self._land(job)
        return job is not None

    def _land(self, job: Any) -> None:
        if job is None:
            return
        bundle, before = self._current, job.chunk.rejects.num_rows
        bundle.working -= 1
        with failures.ends_the_run(self._run):
            job.settle()
        self._rows.inc(job.size - before)
        self._rejects.inc(job.chunk.rejects.num_rows - before)
        for name, seconds in zip(STEPS, job.seconds, strict=True):
            self._usec[name].inc(round(seconds * 1e6))
        insort(bundle.landed, job)

    def _fill(self) -> bool:
        """Moves landed chunks, the oldest first, into the batch; returns whether it is full."""
        bundle = self._current
        by_bytes = BUDGET.total // 2 // max(self._work.inputs.pixel_bytes, 1)
        most = max(1, min(self._batch_size, by_bytes))
        while (job := bundle.next_to_leave()) is not None:
            if bundle.batch and bundle.rows + job.chunk.rows.num_rows > most:
                return True
            bundle.add(job)
            if bundle.rows >= most or bundle.weight >= WEIGHT_OF_BATCH * max(most, 64):
                return True
        return False
