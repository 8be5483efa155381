"""Reads a manifest on the workers of a Beam pipeline."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PBegin
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.engine import counters, failures
from pipelines.engine.chunks import CHUNK_ROWS
from pipelines.manifests.formats import register_format, registered_formats
from pipelines.manifests.planning import Plan, plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.units import raws_of, read_chunks, together
from pipelines.records import Chunk, Unit

UNITS_AHEAD = 3  # that are opened while one is handed out


class ReadManifest(beam.PTransform):
    """Reads a manifest into chunks. While one unit is handed out, the next three are being opened.

    Consumes: nothing; it stands at the beginning of a pipeline.
    Produces: `Chunk`; those of a unit in order, the last with the `End` of the unit.
    Counters: `rows_read`, `read_usec`.

    Args:
        manifest: files, directories or globs on any fsspec filesystem; a request that says more
            about them; or what is planned already.
        rows: of a chunk.
        is_written: tells a unit that is not read, as it is whole already; None if every one is.
        limit: rows of each unit at most, for a sample.
        run: whose failure ends the reading; "" for none.

    Attributes:
        plan: the units that are read, and the columns that are copied from the manifest.

    Raises:
        ManifestError, OSError: as `plan_units`.
    """

    def __init__(
        self,
        manifest: str | Sequence[str] | ManifestRequest | Plan,
        *,
        rows: int = CHUNK_ROWS,
        is_written: Callable[[Unit], bool] | None = None,
        limit: int | None = None,
        run: str = "",
    ) -> None:
        super().__init__()
        self.plan = _planned(manifest)
        self._read = _Read(self.plan.kept, rows, is_written, limit, run)

    def expand(self, begin: PBegin) -> beam.PCollection[Chunk]:
        tasks = together(self.plan.units)
        units = beam.Create(tasks, reshuffle=False).with_output_types(tuple[Unit, ...])
        read = beam.ParDo(self._read).with_output_types(Chunk)
        return begin | "Units" >> units | "Spread" >> beam.Reshuffle() | "Read" >> read


def _planned(manifest: str | Sequence[str] | ManifestRequest | Plan) -> Plan:
    if isinstance(manifest, Plan):
        return manifest
    if isinstance(manifest, ManifestRequest):
        return plan_units(manifest)
    patterns = (manifest,) if isinstance(manifest, str) else tuple(manifest)
    return plan_units(ManifestRequest(patterns))


class _Read(beam.DoFn):
    def __init__(
        self,
        kept: pa.Schema,
        rows: int,
        is_written: Callable[[Unit], bool] | None,
        limit: int | None,
        run: str,
    ) -> None:
        self._kept, self._rows = tuple(kept), rows
        self._is_written, self._limit, self._run = is_written, limit, run
        self._formats = registered_formats()
        self._rows_read = Metrics.counter(ReadManifest, "rows_read")
        self._usec = Metrics.counter(ReadManifest, "read_usec")

    def setup(self) -> None:
        for form in self._formats:  # here they may not be registered yet
            register_format(form)
        self._pool = ThreadPoolExecutor(UNITS_AHEAD)

    def start_bundle(self) -> None:
        self._held: deque[Future[Iterator[Chunk]]] = deque()

    def process(self, units: tuple[Unit, ...]) -> Iterator[Chunk]:
        self._held.append(self._pool.submit(self._open, units))
        if len(self._held) > UNITS_AHEAD:
            yield from self._hand_out()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._held:
            for chunk in self._hand_out():
                yield WindowedValue(chunk, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, units: tuple[Unit, ...]) -> Iterator[Chunk]:
        """Reads a first chunk, for which the file has to be opened and looked through."""
        wanted = [unit for unit in units if not (self._is_written and self._is_written(unit))]
        chunks = self._chunks(wanted)
        first = list(itertools.islice(chunks, 1))  # now, in this thread
        return itertools.chain(first, chunks)

    def _chunks(self, units: Sequence[Unit]) -> Iterator[Chunk]:
        raws = raws_of(units)
        for unit in units:
            yield from read_chunks(unit, self._kept, self._rows, self._limit, raws)

    def _hand_out(self) -> Iterator[Chunk]:
        """Yields the chunks of the oldest unit, and counts the time without what follows."""
        seconds, began = 0.0, time.perf_counter()
        with failures.ends_the_run(self._run):
            chunks = self._held.popleft().result()
        while True:
            with failures.ends_the_run(self._run):
                failures.check(self._run)
                chunk = next(chunks, None)
            seconds += time.perf_counter() - began
            if chunk is None:
                break
            counters.TALLY.note_start()
            self._rows_read.inc(chunk.size)
            yield chunk
            began = time.perf_counter()
        self._usec.inc(round(seconds * 1e6))
