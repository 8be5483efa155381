"""Reads units of a manifest into rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.pvalue import DoOutputsTuple, TaggedOutput

from pipelines.parquet_manifests import read_ledger, read_parquet
from pipelines.raw_rows import Fault, RawRow, reject, to_row
from pipelines.records import Reject, Row, Unit, UnitCount
from pipelines.text_manifests import read_text
from pipelines.webdataset import read_webdataset
from schemas.rejects import Reason

_READERS: dict[str, Callable[[Unit], Iterator[RawRow]]] = {
    "parquet": read_parquet,
    "jsonl": read_text,
    "csv": read_text,
    "tsv": read_text,
    "webdataset": read_webdataset,
    "img2dataset": read_ledger,
}


def read_unit(unit: Unit) -> Iterator[Row | Reject]:
    """Yields every row of a unit, in order, one at a time.

    What cannot be read of a damaged file is one reject at the end; it counts as one row.

    Of a unit with `only_rows`, those alone.

    Raises:
        OSError: if the manifest cannot be read for now; the runner tries again.
    """
    if unit.only_rows is None:
        yield from _records(unit)
        return
    wanted = set(unit.only_rows)
    for record in _records(unit):
        number = (record.row if isinstance(record, Reject) else record).source_row
        if number in wanted:
            wanted.remove(number)
            yield record
        if not wanted:
            return


def _records(unit: Unit) -> Iterator[Row | Reject]:
    after = unit.first_row
    for raw in _READERS[unit.format](unit):
        after = raw.number + 1
        yield to_row(unit, raw)
    if unit.damage is not None:
        whole_file = unit.format == "parquet"
        reason = Reason.MANIFEST_UNREADABLE if whole_file else Reason.MANIFEST_TRUNCATED
        yield reject(unit, after, Fault(reason, unit.damage))


class ReadManifest(beam.PTransform):
    """Reads units into rows.

    Consumes: `Unit`, as `plan_units` makes them.
    Produces: `Row` under `rows`, `Reject` of the rows that cannot be made out under `rejects`, and
        under `counts` one `UnitCount` for each unit, which says how many of both there were.
    Counters: `rows_read`, `read_usec`.
    """

    def expand(self, units: beam.PCollection) -> DoOutputsTuple:
        read = beam.ParDo(_ReadUnit()).with_outputs("rejects", "counts", main="rows")
        return units | "ReadUnits" >> read


class _ReadUnit(beam.DoFn):
    def __init__(self) -> None:
        self._rows_read = Metrics.counter(ReadManifest, "rows_read")
        self._usec = Metrics.counter(ReadManifest, "read_usec")

    def process(self, unit: Unit) -> Iterator[Row | TaggedOutput]:
        rows_read = 0
        for record in self._timed(read_unit(unit)):
            rows_read += 1
            if isinstance(record, Reject):
                yield TaggedOutput("rejects", record)
            else:
                yield record
        self._rows_read.inc(rows_read)
        yield TaggedOutput("counts", UnitCount(unit, rows_read))

    def _timed(self, records: Iterator[Row | Reject]) -> Iterator[Row | Reject]:
        """Counts the time that reading takes, without what is done with each record meanwhile."""
        seconds, began = 0.0, time.perf_counter()
        for record in records:
            seconds += time.perf_counter() - began
            yield record
            began = time.perf_counter()
        self._usec.inc(round((seconds + time.perf_counter() - began) * 1e6))
