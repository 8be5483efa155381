"""Reads a manifest on the workers of a Beam pipeline."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PBegin
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.engine import failures
from pipelines.engine.chunks import CHUNK_ROWS, packed, unpacked
from pipelines.engine.tally import TALLY
from pipelines.manifests.formats import register_format, registered_formats
from pipelines.manifests.planning import Plan, plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.units import raws_of, read_chunks, together
from pipelines.records import Chunk, Unit, UnitResult

UNITS_AHEAD = 3  # that are opened while one is handed out
# Where the line waits for these, as stores take their time; of them in memory no more than so much.
MOST_AHEAD, MOST_AHEAD_BYTES = 16, 64 << 20
READERS = 2  # while what one has read is scored and written, the other keeps the model busy


class UnitSource(Protocol):
    """Gives units to the line while it runs; it travels by pickle."""

    def take(self, holder: object, held: int) -> tuple[Unit, ...] | None:
        """Returns units that one reader is to read; None for not now, and to one that holds none:
        no more.

        Args:
            holder: who asks.
            held: how many it holds and has not begun.
        """

    def begun(self, unit: Unit) -> None:
        """Notes that the first chunk of a unit is handed out."""

    def found(self, result: UnitResult) -> None:
        """Notes a unit that is whole already."""


FindWritten = Callable[[Unit], UnitResult | None]


class ReadManifest(beam.PTransform):
    """Reads a manifest into chunks.

    While one unit is handed out, the next three are being opened; up to sixteen, if the line has to
    wait for them.

    Consumes: nothing; it stands at the beginning of a pipeline.
    Produces: `Chunk`; those of a unit in order, the last with the `End` of the unit.
    Counters: `rows_read`, `read_usec`.

    Args:
        manifest: files, directories or globs on any fsspec filesystem; a request that says more
            about them; or what is planned already.
        rows: of a chunk.
        find_written: returns what became of a unit that is whole already, so that it is not read,
            and None for others; None if every one is read.
        limit: rows of each unit at most, for a sample.
        run: whose failure ends the reading; "" for none.
        source: gives the units while the line runs, instead of the plan.

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
        find_written: FindWritten | None = None,
        limit: int | None = None,
        run: str = "",
        source: UnitSource | None = None,
    ) -> None:
        super().__init__()
        self.plan = _planned(manifest)
        self._source = source
        settings = (self.plan.kept, rows, find_written, limit, run)
        self._read = _Read(*settings) if source is None else _ReadAsked(source, *settings)

    def expand(self, begin: PBegin) -> beam.PCollection[Chunk]:
        read = beam.ParDo(self._read).with_output_types(Chunk)
        if self._source is not None:  # readers stand in front of the queue, and nothing behind it
            readers = beam.Create(range(READERS), reshuffle=False).with_output_types(int)
            return begin | "Readers" >> readers | "Spread" >> beam.Reshuffle() | "Read" >> read
        blocks = beam.Create(packed(together(self.plan.units)), reshuffle=False)
        unpack = beam.FlatMap(unpacked).with_output_types(tuple[Unit, ...])
        units = begin | "Units" >> blocks.with_output_types(bytes) | "Unpack" >> unpack
        return units | "Spread" >> beam.Reshuffle() | "Read" >> read


def _planned(manifest: str | Sequence[str] | ManifestRequest | Plan) -> Plan:
    if isinstance(manifest, Plan):
        return manifest
    if isinstance(manifest, ManifestRequest):
        return plan_units(manifest)
    patterns = (manifest,) if isinstance(manifest, str) else tuple(manifest)
    return plan_units(ManifestRequest(patterns))


class _Opened(NamedTuple):
    """Units whose first chunk is read, of so many bytes."""

    chunks: Iterator[Chunk]
    nbytes: int


def _is_open(opened: Future[_Opened]) -> bool:
    return opened.done() and opened.exception() is None


class _Read(beam.DoFn):
    def __init__(
        self,
        kept: pa.Schema,
        rows: int,
        find_written: FindWritten | None,
        limit: int | None,
        run: str,
    ) -> None:
        self._kept, self._rows = tuple(kept), rows
        self._find_written, self._limit, self._run = find_written, limit, run
        self._formats = registered_formats()
        self._rows_read = Metrics.counter(ReadManifest, "rows_read")
        self._usec = Metrics.counter(ReadManifest, "read_usec")

    def setup(self) -> None:
        for form in self._formats:  # here they may not be registered yet
            register_format(form)
        self._pool = ThreadPoolExecutor(MOST_AHEAD)
        self._lock = threading.Lock()  # `teardown` may come from another thread
        self._given_up = threading.Event()
        self._ahead = UNITS_AHEAD

    def start_bundle(self) -> None:
        self._held: deque[Future[_Opened]] = deque()

    def process(self, units: tuple[Unit, ...]) -> Iterator[Chunk]:
        self._open_ahead(units)
        if not self._has_room():
            yield from self._hand_out()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._held:
            for chunk in self._hand_out():
                yield WindowedValue(chunk, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self) -> None:
        self._given_up.set()
        with self._lock:  # what is at work may hand one more to the pool
            self._pool.shutdown(wait=False)

    def _open_ahead(self, units: tuple[Unit, ...]) -> None:
        with self._lock:
            failures.check(self._run, self._given_up.is_set())
            self._held.append(self._pool.submit(self._open, units))

    def _open(self, units: tuple[Unit, ...]) -> _Opened:
        """Reads a first chunk, for which the file has to be opened and looked through."""
        failures.check(self._run, self._given_up.is_set())
        chunks = self._chunks([unit for unit in units if not self._is_found(unit)])
        first = list(itertools.islice(chunks, 1))  # now, in this thread
        return _Opened(itertools.chain(first, chunks), sum(chunk.nbytes for chunk in first))

    def _has_room(self) -> bool:
        """Tells whether one more may be opened before the oldest is handed out."""
        if len(self._held) <= UNITS_AHEAD:
            return True
        held = sum(opened.result().nbytes for opened in self._held if _is_open(opened))
        return len(self._held) <= self._ahead and held < MOST_AHEAD_BYTES

    def _is_found(self, unit: Unit) -> bool:
        result = self._find_written(unit) if self._find_written else None
        if result is not None:
            self._found(result)
        return result is not None

    def _found(self, result: UnitResult) -> None:
        """Hears of a unit that is whole already."""

    def _begun(self, unit: Unit | None) -> None:
        """Hears of a unit whose first chunk is handed out."""

    def _chunks(self, units: Sequence[Unit]) -> Iterator[Chunk]:
        raws = raws_of(units)
        for unit in units:
            yield from read_chunks(unit, self._kept, self._rows, self._limit, raws)

    def _hand_out(self) -> Iterator[Chunk]:
        """Yields the chunks of the oldest unit, and counts the time without what follows."""
        seconds, began = 0.0, time.perf_counter()
        oldest = self._held.popleft()
        if not oldest.done():
            self._ahead = min(2 * self._ahead, MOST_AHEAD)
        with failures.ends_the_run(self._run):
            chunks = oldest.result().chunks
        while True:
            with failures.ends_the_run(self._run):
                failures.check(self._run, self._given_up.is_set())
                chunk = next(chunks, None)
            seconds += time.perf_counter() - began
            if chunk is None:
                break
            TALLY.note_start()
            if not chunk.number:
                self._begun(chunk.unit)
            self._rows_read.inc(chunk.source_rows)
            yield chunk
            began = time.perf_counter()
        self._usec.inc(round(seconds * 1e6))


class _ReadAsked(_Read):
    """Asks for units as the line needs them. Source and reader are one stage, so that the source
    cannot run ahead of the reader.

    It keeps units open, so it takes as many and one more before it hands out the first.
    """

    def __init__(self, source: UnitSource, *settings: Any) -> None:
        super().__init__(*settings)
        self._source = source

    def process(self, _: Any) -> Iterator[Chunk]:
        while True:
            while self._has_room():
                units = self._source.take(self, len(self._held))
                if units is None:
                    break
                self._open_ahead(units)
            if not self._held:
                return
            yield from self._hand_out()

    def _found(self, result: UnitResult) -> None:
        self._source.found(result)

    def _begun(self, unit: Unit | None) -> None:
        if unit is not None:
            self._source.begun(unit)
