"""Works on rows in threads ahead of the consumer, in order, with a bounded number in flight."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.cores import threads_for, usable_cores
from pipelines.records import Reject, Row, RowFault


class Step(NamedTuple):
    """A part of the work on a row.

    Attributes:
        name: of its counter.
        work: function of the row and of what the step before returned; the first is given None.
        computes: whether it is bound by the processor. At most one such step a core runs at once,
            and its counter holds processor time.
    """

    name: str
    work: Callable[[Row, Any], Any]
    computes: bool = False


# Rows in flight: enough to keep the threads busy while a batch is encoded, few enough that their
# pixels fit in memory many times over (150 kB each at 224 pixels).
WINDOW = 128
# Manifests that hold the pictures themselves send them along, at up to 64 MiB each.
WINDOW_BYTES = 256 << 20
# More threads fetch than decode, since a decoded picture may take a quarter of a gigabyte.
_CORES = threading.BoundedSemaphore(usable_cores())
REJECTS = "rejects"


@dataclass(eq=False)
class RunAhead(beam.PTransform):
    """Applies steps to each row in a pool of threads.

    The next stage is fused to this one: while it works on a batch, the threads prepare the rows
    that follow. Rows come out in the order they came in.

    Consumes: `Row`, in the global window, as batch pipelines have it.
    Produces: under `results` what the last step returned, under `rejects` a `Reject` for each row
        in which a step raised `RowFault`.
    Counters: `rows`, `rejects`, for each step `<name>_usec`, summed over the threads, and
        `wait_usec`, the time the next stage had to wait for a row.

    Attributes:
        steps: in order.
        window: rows in flight at most; fewer when they hold more than `WINDOW_BYTES` of pictures.
        threads: size of the pool, or None for as many as `threads_for` lets fetch.
    """

    steps: Sequence[Step]
    window: int = WINDOW
    threads: int | None = None

    def expand(self, rows: beam.PCollection) -> DoOutputsTuple:
        do_fn = _RunAhead(self.steps, self.window, self.threads)
        return rows | "RunAhead" >> beam.ParDo(do_fn).with_outputs(REJECTS, main="results")


@dataclass(frozen=True)
class _Outcome:
    """What became of a row, and the seconds each step took."""

    value: Any
    seconds: Sequence[float]


def run_steps(steps: Sequence[Step], row: Row) -> _Outcome:
    """Applies the steps to one row; a `RowFault` becomes a `Reject`."""
    value: Any = None
    seconds = []
    for step in steps:
        clock = time.thread_time if step.computes else time.perf_counter
        with _CORES if step.computes else nullcontext():
            began = clock()
            try:
                value = step.work(row, value)
            except RowFault as fault:
                value = fault.to_reject(replace(row, image_bytes=None))
            seconds.append(clock() - began)
        if isinstance(value, Reject):
            break
    return _Outcome(value, seconds)


class _RunAhead(beam.DoFn):
    def __init__(self, steps: Sequence[Step], window: int, threads: int | None) -> None:
        self._steps = steps
        self._window = window
        self._threads = threads
        self._rows = Metrics.counter(RunAhead, "rows")
        self._rejects = Metrics.counter(RunAhead, "rejects")
        self._usec = [Metrics.counter(RunAhead, f"{name}_usec") for name, *_ in steps]
        self._wait = Metrics.counter(RunAhead, "wait_usec")

    def setup(self) -> None:
        self._pool = ThreadPoolExecutor(self._threads or threads_for().fetch)

    def start_bundle(self) -> None:
        # A bundle that failed must not leave its rows to the next one.
        self._pending: deque[tuple[Future, int]] = deque()
        self._bytes = 0

    def process(self, row: Row) -> Iterator[Any]:
        size = len(row.image_bytes or b"")
        self._pending.append((self._pool.submit(run_steps, self._steps, row), size))
        self._bytes += size
        while self._pending and (self._is_full or self._pending[0][0].done()):
            yield self._next()

    def finish_bundle(self) -> Iterator[Any]:
        while self._pending:
            output = self._next()
            tagged = isinstance(output, TaggedOutput)
            value = output.value if tagged else output
            windowed = WindowedValue(value, MIN_TIMESTAMP, (GlobalWindow(),))
            yield TaggedOutput(REJECTS, windowed) if tagged else windowed

    def teardown(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _is_full(self) -> bool:
        return len(self._pending) >= self._window or self._bytes > WINDOW_BYTES

    def _next(self) -> Any:
        """Waits for the oldest row; counts it, which Beam allows in the bundle's thread only."""
        future, size = self._pending.popleft()
        self._bytes -= size
        began = time.perf_counter()
        outcome = future.result()
        self._wait.inc(round((time.perf_counter() - began) * 1e6))
        self._rows.inc()
        for counter, seconds in zip(self._usec, outcome.seconds, strict=False):
            counter.inc(round(seconds * 1e6))
        if not isinstance(outcome.value, Reject):
            return outcome.value
        self._rejects.inc()
        return TaggedOutput(REJECTS, outcome.value)
