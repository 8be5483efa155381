"""Writes the two files of one unit: chunks in any order in, rows in manifest order out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.output.arrow_rows import embeddings_batch
from pipelines.output.layout import EMBEDDINGS, REJECTS, OutputLayout
from pipelines.output.merging import OldRows, keys_of, old_rows
from pipelines.output.parquet import parquet_options
from pipelines.output.unit_record import (
    Author,
    NotARecordError,
    UnitRecord,
    find_record,
    metadata_of,
    package_versions,
    result_metadata,
)
from pipelines.records import Chunk, End, Unit, UnitResult
from pipelines.storage import listing, writing
from pipelines.storage.partial_files import PartialFile
from schemas.embeddings import KEY_ORDER


class ConservationError(RuntimeError):
    """Rows of a unit are missing or there twice. Nothing of the unit is written."""


class _TableFile:
    """One file of a unit, begun with its first row; rows wait in memory for a row group."""

    def __init__(self, uri: str, schema: pa.Schema, run: str) -> None:
        self._uri, self._schema, self._run = uri, schema, run
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._partial: PartialFile | None = None
        self.rows = 0
        self.waiting_bytes = 0

    def append(self, table: pa.Table) -> None:
        """Takes rows that follow those that came before."""
        if table.num_rows:
            self._waiting.append(table)
            self.rows += table.num_rows
            self.waiting_bytes += table.nbytes

    def write_group(self) -> None:
        """Writes what waits as a row group."""
        if self._waiting:
            self._open().write_table(pa.concat_tables(self._waiting).cast(self._schema))
            self._waiting, self.waiting_bytes = [], 0

    def close(self, metadata: Mapping[bytes, str]) -> None:
        """Writes the rest, and what is known of the whole."""
        self.write_group()
        writer = self._open()
        writer.add_key_value_metadata(metadata)
        writer.close()

    def publish(
        self, may_stay: Callable[[UnitRecord], bool], check: Callable[[], object], is_new: bool
    ) -> None:
        """Gives the file its name.

        Args:
            may_stay: tells whether a file that has it may keep it, if it came since the run looked:
                what lay there then is torn, or the unit would not be done.
            check: called before another's file is replaced.
            is_new: whether none had it when the run looked.
        """
        assert self._partial is not None, "a file is closed before it is published"
        self._partial.publish(lambda: is_new and self._is_there(may_stay), check, is_new)

    def _is_there(self, may_stay: Callable[[UnitRecord], bool]) -> bool:
        try:
            found = find_record(self._uri)
        except NotARecordError:
            return False
        return found is not None and may_stay(found)

    def discard(self) -> None:
        """Removes what was written."""
        if self._partial is not None:
            self._partial.discard()

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._partial = PartialFile(self._uri, self._run)
            self._writer = pq.ParquetWriter(
                self._partial.file, self._schema, **parquet_options(self._schema)
            )
        return self._writer


class UnitWriter:
    """A unit that is being written.

    Chunks may come in any order; each must come once, and together they must have the rows and the
    records that the reader counted.

    Args:
        attempt: id of this attempt, the same in both files.
    """

    def __init__(self, layout: OutputLayout, unit: Unit, attempt: str) -> None:
        self.unit, self._layout = unit, layout
        self._next = 0
        self._end: End | None = None
        self._waiting: dict[int, Chunk] = {}
        self._rows = self._records = 0
        self._reasons: Counter[str] = Counter()
        by = Author(layout.output_id, layout.run, attempt)
        about = metadata_of(unit, layout.fingerprint, package_versions(), by)
        self._files = {
            name: _TableFile(
                layout.uri(name, unit.unit_id), layout.schema(name).with_metadata(about), layout.run
            )
            for name in (EMBEDDINGS, REJECTS)
        }
        self._before = self._existing()
        self._old: dict[str, OldRows] = {}
        if self._before is not None and unit.only is not None:
            self._old = old_rows(unit.only, layout.embeddings, layout.rejects)

    @property
    def is_merged(self) -> bool:
        """Whether rows are put into the place of what the output has of them."""
        return bool(self._old)

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for an earlier chunk."""
        return sum(chunk.size for chunk in self._waiting.values())

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for a row group."""
        return sum(file.waiting_bytes for file in self._files.values())

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has come."""
        return self._end is not None and self._next == self._end.chunks

    def add(self, chunk: Chunk) -> None:
        """Takes a chunk, and writes what is in order now.

        Raises:
            ConservationError: if it came before, or behind the end.
        """
        name, number, end = self.unit.unit_id, chunk.number, self._end
        behind = end is not None and (number >= end.chunks or chunk.end is not None)
        if number < self._next or number in self._waiting or behind:
            raise ConservationError(
                f"unit {name}: chunk {number} came twice or behind the end; nothing of it is "
                "written; run again, and report this as a bug"
            )
        self._end = chunk.end or end
        self._waiting[number] = chunk
        while self._next in self._waiting:
            self._append(self._waiting.pop(self._next))
            self._next += 1

    def write_groups(self) -> None:
        """Writes what waits, so that it no longer takes memory."""
        for file in self._files.values():
            file.write_group()

    def close(self) -> UnitResult:
        """Checks the counts and completes the files, which have no names yet.

        Raises:
            ConservationError: if rows are missing, or there are too many.
        """
        self._check_counts()
        for name, rows in self._old.items():
            self._put(name, rows.before(None))
        embedded, rejected = (self._files[name].rows for name in (EMBEDDINGS, REJECTS))
        before = self._before if self._old else None
        if before and before.records != embedded + rejected:
            raise ConservationError(
                f"unit {self.unit.unit_id}: {before.records} records before its rejects were "
                f"retried, {embedded + rejected} after it; nothing of it is written"
            )
        assert self._end is not None
        result = UnitResult(
            self.unit.unit_id,
            before.rows_read if before else self._end.rows,
            embedded,
            dict(sorted(self._reasons.items())),
            before.digest if before else self._end.digest,
        )
        for name, file in self._files.items():
            if name == EMBEDDINGS or file.rows:
                file.close(result_metadata(result))
        return result

    def publish(self, check: Callable[[], object]) -> None:
        """Gives the files their names: rejects first, so a file of embeddings means a whole unit.

        When rows are merged it is the other way round: a kill in between leaves rows in both
        tables, which the next run resolves, but loses none.

        Args:
            check: called before another's file is replaced; raises if the output is another run's.
        """
        for name in (EMBEDDINGS, REJECTS) if self.is_merged else (REJECTS, EMBEDDINGS):
            file, is_new = self._files[name], self._layout.is_new(name, self.unit.unit_id)
            if name == EMBEDDINGS or file.rows:
                file.publish(self._may_stay, check, is_new)
            elif not is_new:
                self._remove_rejects()

    def _may_stay(self, found: UnitRecord) -> bool:
        """Tells whether a file has the same rows: one of another attempt of this very run."""
        same = (self._layout.output_id, self._layout.run)
        return bool(self._layout.run) and not self.is_merged and found.by[:2] == same

    def discard(self) -> None:
        """Removes what has no name."""
        for file in self._files.values():
            file.discard()

    def _existing(self) -> UnitResult | None:
        """Returns what the output has of the unit that new rows are merged into, if anything."""
        only = self.unit.only
        if only is None or only.embedded is None:
            return None
        record = find_record(only.embedded)
        return record.result if record else None

    def _append(self, chunk: Chunk) -> None:
        self._records += chunk.size
        self._rows += chunk.source_rows if self.unit.only is None else chunk.size
        layout = self._layout
        scored = embeddings_batch(chunk, layout.embeddings, layout.models)
        self._put_in_order(EMBEDDINGS, pa.Table.from_batches([scored]))
        self._put_in_order(REJECTS, pa.Table.from_batches([chunk.rejects]))

    def _put_in_order(self, name: str, table: pa.Table) -> None:
        if self._old and table.num_rows:
            last = pc.max(keys_of(table)).as_py()
            table = pa.concat_tables([self._old[name].before(last), table]).sort_by(KEY_ORDER)
        self._put(name, table)

    def _put(self, name: str, table: pa.Table) -> None:
        self._files[name].append(table)
        if name == REJECTS:
            for found in pc.value_counts(table["reason"]).to_pylist():
                self._reasons[found["values"]] += found["counts"]

    def _check_counts(self) -> None:
        assert self._end is not None, "a unit is closed once its end has come"
        name, read, planned = self.unit.unit_id, self._end.rows, self.unit.rows_to_read
        if planned not in (None, read):
            raise ConservationError(
                f"unit {name}: expected {planned} rows, but {read} were found in the manifest; "
                "nothing of it is written"
            )
        counts = (("rows", read, self._rows), ("captions", self._end.records, self._records))
        for what, expected, found in counts:
            if expected != found:
                raise ConservationError(
                    f"unit {name}: {expected} {what} read, but {found} embedded or rejected; "
                    "nothing of it is written"
                )

    def _remove_rejects(self) -> None:
        uri = self._layout.uri(REJECTS, self.unit.unit_id)
        if listing.exists(uri):  # of an attempt that was killed, or before all were retried
            writing.remove(uri)
