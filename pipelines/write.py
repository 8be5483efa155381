"""Writes one Parquet file per unit, after checking that no row of the unit was lost."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines import progress, storage
from pipelines.blocks import Block, pack, unpacked
from pipelines.layout import EMBEDDINGS, FINGERPRINT_KEY, REJECTS, RESULT_KEY, VERSIONS_KEY
from pipelines.parquet_output import write_parquet
from pipelines.records import Reject, Scored, Unit, UnitCount, UnitResult
from pipelines.replay import UNIT_KEY, merge_retried, unit_file, unit_to_json
from pipelines.run_record import package_versions
from pipelines.tables import rejects_batch, scored_batch

# Rows of a unit travel to its writer in blocks: a shuffled element costs far more than a row.
BLOCK_ROWS = 512


class ConservationError(RuntimeError):
    """Rows of a unit are missing or there twice. Nothing of the unit is written."""


@dataclass(frozen=True)
class OutputLayout:
    """Where a run writes and what its tables look like.

    Attributes:
        root: output directory URI.
        embeddings, rejects: schemas of the two tables.
        models: names of the run's models, in the order of the rows' vectors.
        fingerprint: what decided the values, kept in every file's metadata.
        scratch: local directory where rows wait until all of their unit are there, for workers that
            share a disk: the in-process runner would hold them in memory, five times over.
    """

    root: str
    embeddings: pa.Schema
    rejects: pa.Schema
    fingerprint: Mapping[str, Any]
    models: tuple[str | None, ...] = (None,)
    scratch: str | None = None

    def uri(self, table: str, unit_id: str) -> str:
        """Names the file of a unit in one of the two tables."""
        return unit_file(self.root, table, unit_id)


@dataclass(eq=False)
class WriteUnits(beam.PTransform):
    """Brings the rows of each unit together and writes them in manifest order.

    Consumes: a dict of `Scored` under `scored`, `Reject` under `rejects`, `UnitCount` under
        `counts`, in the global window.
    Produces: a `UnitResult` for each unit, once its files are in place.
    Counters: `write_usec`; the results hold the counts.

    Raises:
        ConservationError: in the job, when rows read are not rows embedded plus rows rejected.
    """

    layout: OutputLayout

    def expand(self, rows: dict[str, beam.PCollection]) -> beam.PCollection:
        layout = self.layout
        tables = {
            "scored": rows["scored"] | "PackScored" >> beam.ParDo(_PackScored(layout)),
            "rejects": rows["rejects"] | "PackRejects" >> beam.ParDo(_PackRejects(layout)),
            "counts": rows["counts"] | "KeyCounts" >> beam.WithKeys(_unit_of_count),
        }
        return tables | "ByUnit" >> beam.CoGroupByKey() | "Write" >> beam.ParDo(_Write(layout))


_WRITE_USEC = Metrics.counter(WriteUnits, "write_usec")


def write_unit(
    layout: OutputLayout,
    counts: Iterable[UnitCount],
    scored: Iterable[pa.RecordBatch],
    rejects: Iterable[pa.RecordBatch],
) -> UnitResult:
    """Checks and writes one unit: its rejects first, its embeddings last, each in one piece.

    So a file under `embeddings/` means that the unit is finished. When retried rows are merged, the
    embeddings are written first: a kill in between leaves rows in both tables, which the next run
    resolves, but loses none.
    """
    count = _single(counts)
    unit = count.unit
    embeddings = _table(scored, layout.embeddings)
    rejected = _table(rejects, layout.rejects)
    _check_conservation(count, embeddings, rejected)
    if unit.only_rows is not None:
        embeddings, rejected = merge_retried(layout.root, unit, embeddings, rejected)
    reasons = Counter(rejected.column("reason").to_pylist())
    rows = embeddings.num_rows + rejected.num_rows
    result = UnitResult(unit.unit_id, rows, embeddings.num_rows, dict(reasons))
    metadata = {
        FINGERPRINT_KEY: json.dumps(dict(layout.fingerprint), sort_keys=True),
        RESULT_KEY: json.dumps(result.to_json()),
        UNIT_KEY: unit_to_json(unit),
        VERSIONS_KEY: json.dumps(package_versions()),
    }
    if unit.only_rows is None:
        _write_rejects(layout, unit, rejected, metadata)
    _write_table(layout.uri(EMBEDDINGS, unit.unit_id), embeddings, metadata)
    if unit.only_rows is not None:
        _write_rejects(layout, unit, rejected, metadata)
    return result


def _write_rejects(
    layout: OutputLayout, unit: Unit, rejected: pa.Table, metadata: Mapping[bytes, str]
) -> None:
    uri = layout.uri(REJECTS, unit.unit_id)
    if rejected.num_rows:
        _write_table(uri, rejected, metadata)
    elif storage.exists(uri):  # of an attempt that was killed, or before all were retried
        storage.remove(uri)


def _write_table(uri: str, table: pa.Table, metadata: Mapping[bytes, str]) -> None:
    write_parquet(uri, table.schema.with_metadata(metadata), table.to_batches())


def _check_conservation(count: UnitCount, embeddings: pa.Table, rejected: pa.Table) -> None:
    unit = count.unit
    found = embeddings.num_rows + rejected.num_rows
    if unit.only_rows is not None and len(unit.only_rows) != count.rows_read:
        raise ConservationError(
            f"unit {unit.unit_id}: {len(unit.only_rows)} rows to retry, but {count.rows_read} found"
            " in the manifest; nothing of it was written"
        )
    if found != count.rows_read:
        raise ConservationError(
            f"unit {unit.unit_id}: {count.rows_read} rows read, but {embeddings.num_rows} embedded "
            f"and {rejected.num_rows} rejected; nothing of it was written"
        )
    rows = pa.concat_tables(
        [embeddings.select(["source_row"]), rejected.select(["source_row"])]
    ).column(0)
    if pc.count_distinct(rows).as_py() != found:
        raise ConservationError(f"unit {unit.unit_id}: a row came back twice; nothing was written")


def _single(counts: Iterable[UnitCount]) -> UnitCount:
    found = list(counts)
    if len(found) != 1:
        units = ", ".join(count.unit.unit_id for count in found) or "none"
        raise ConservationError(f"expected one count of a unit's rows, got {units}")
    return found[0]


def _table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_batches(list(batches), schema)
    rows = table.column("source_row").to_numpy()
    # Sorting copies the vectors, and most runners bring the blocks in order anyway.
    return table if (rows[1:] > rows[:-1]).all() else table.sort_by("source_row")


def _unit_of_count(count: UnitCount) -> str:
    return count.unit.unit_id


class _Write(beam.DoFn):
    def __init__(self, layout: OutputLayout) -> None:
        self._layout = layout

    def process(self, unit: tuple[str, dict[str, Any]]) -> Iterator[UnitResult]:
        found, layout = unit[1], self._layout
        with _timed():
            scored = unpacked(found["scored"], layout.embeddings)
            rejects = unpacked(found["rejects"], layout.rejects)
            result = write_unit(layout, found["counts"], scored, rejects)
        yield result


@contextmanager
def _timed() -> Iterator[None]:
    began = time.perf_counter()
    yield
    _WRITE_USEC.inc(round((time.perf_counter() - began) * 1e6))


class _Pack(beam.DoFn):
    """Gathers the rows of a bundle into blocks, keyed by unit."""

    def __init__(self, layout: OutputLayout) -> None:
        self._layout = layout

    def start_bundle(self) -> None:
        self._rows: dict[str, list] = defaultdict(list)

    def process(self, record: Scored | Reject) -> Iterator[tuple[str, Block]]:
        unit_id = self._row_unit(record)
        rows = self._rows[unit_id]
        rows.append(record)
        self._note(record)
        if len(rows) >= BLOCK_ROWS:
            yield unit_id, self._packed(self._rows.pop(unit_id))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for unit_id, rows in self._rows.items():
            block = self._packed(rows)
            yield WindowedValue((unit_id, block), MIN_TIMESTAMP, (GlobalWindow(),))
        self._rows = defaultdict(list)

    def _packed(self, rows: Sequence[Any]) -> Block:
        with _timed():
            return pack(self._batch(rows), self._layout.scratch)

    def _row_unit(self, record: Any) -> str:
        raise NotImplementedError

    def _note(self, record: Any) -> None:
        raise NotImplementedError

    def _batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        raise NotImplementedError


class _PackScored(_Pack):
    def _row_unit(self, record: Scored) -> str:
        return record.embedded.row.unit_id

    def _note(self, record: Scored) -> None:
        progress.TALLY.add_embedded()

    def _batch(self, rows: Sequence[Scored]) -> pa.RecordBatch:
        return scored_batch(rows, self._layout.embeddings, self._layout.models)


class _PackRejects(_Pack):
    def _row_unit(self, record: Reject) -> str:
        return record.row.unit_id

    def _note(self, record: Reject) -> None:
        progress.TALLY.add_reject()

    def _batch(self, rows: Sequence[Reject]) -> pa.RecordBatch:
        return rejects_batch(rows, self._layout.rejects)
