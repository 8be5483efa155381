"""Reads units of a manifest into rows, and rows into chunks."""

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
from pipelines.engine.chunks import CHUNK_BYTES, CHUNK_ROWS, make_chunk
from pipelines.manifests.digest import ManifestChangedError, RowsDigest, check_unchanged
from pipelines.manifests.formats import format_called, register_format, registered_formats
from pipelines.manifests.planning import Plan, plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.rows import Fault, reject, to_row
from pipelines.output.merging import selected_rows
from pipelines.records import Chunk, End, Reject, Row, Selection, Unit

UNITS_AHEAD = 3  # that are opened while one is handed out


def read_unit(unit: Unit) -> Iterator[Row | Reject]:
    """Yields every row of a unit, in order, one at a time.

    What cannot be read of a damaged file is one reject at the end; it counts as one row.

    Of a unit with `only`, those rows alone.

    Raises:
        ManifestChangedError: if the manifest is not the file that was planned.
        OSError: if the manifest cannot be read for now; the runner tries again.
    """
    check_unchanged(unit)
    yield from _records(unit) if unit.only is None else _selected(unit, unit.only)
    check_unchanged(unit)


def digest_of(unit: Unit) -> str:
    """Reads a unit and returns the digest of its rows; no image is fetched.

    Raises:
        OSError: as `read_unit`.
    """
    digest = RowsDigest()
    for record in read_unit(unit):
        digest.add(record)
    return digest.hexdigest()


def _selected(unit: Unit, only: Selection) -> Iterator[Row | Reject]:
    wanted = set(selected_rows(only))
    if not wanted:
        return
    digest = RowsDigest()
    for record in _records(unit):
        if only.digest:
            digest.add(record)
        number = (record.row if isinstance(record, Reject) else record).source_row
        if number in wanted:
            wanted.remove(number)
            yield record
        if not wanted and not only.digest:
            return
    if only.digest and digest.hexdigest() != only.digest:
        raise ManifestChangedError(
            f"the manifest {unit.uri} has other rows than when {only.tables[0]} was written; embed "
            "it anew"
        )


def _records(unit: Unit) -> Iterator[Row | Reject]:
    after, form = unit.first_row, format_called(unit.format)
    for raw in form.read(unit):
        after = raw.number + 1
        yield to_row(unit, raw)
    if unit.damage is not None:
        yield reject(unit, after, Fault(form.damage, unit.damage))


def read_chunks(
    unit: Unit,
    kept: Sequence[pa.Field] = (),
    rows: int = CHUNK_ROWS,
    limit: int | None = None,
) -> Iterator[Chunk]:
    """Yields the rows of a unit in numbered chunks; the last one, perhaps empty, tells the end.

    A chunk closes at so many rows, or once the images in it have `CHUNK_BYTES`.

    Args:
        kept: the columns that are copied from the manifest, with their types.
        rows: of a chunk.
        limit: rows of the unit at most.
    """
    taken: list[Row | Reject] = []
    number, total, held = 0, 0, 0
    digest = RowsDigest()
    for record in itertools.islice(read_unit(unit), limit):
        if len(taken) == rows or held >= CHUNK_BYTES:
            yield make_chunk(taken, kept, unit=unit, number=number)
            taken, number, held = [], number + 1, 0
        taken.append(record)
        digest.add(record)
        total += 1
        if isinstance(record, Row):
            held += len(record.image_bytes or b"")
    end = End(number + 1, total, digest.hexdigest())
    yield make_chunk(taken, kept, unit=unit, number=number, end=end)


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
        units = beam.Create(self.plan.units, reshuffle=False).with_output_types(Unit)
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

    def process(self, unit: Unit) -> Iterator[Chunk]:
        self._held.append(self._pool.submit(self._open, unit))
        if len(self._held) > UNITS_AHEAD:
            yield from self._hand_out()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._held:
            for chunk in self._hand_out():
                yield WindowedValue(chunk, MIN_TIMESTAMP, (GlobalWindow(),))

    def teardown(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, unit: Unit) -> Iterator[Chunk]:
        """Reads a first chunk, for which the file has to be opened and looked through."""
        if self._is_written is not None and self._is_written(unit):
            return iter(())
        chunks = read_chunks(unit, self._kept, self._rows, self._limit)
        return itertools.chain([next(chunks)], chunks)

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
