"""Merges rows that were read again with what the output has of their unit, row group by row group.

Rows are told by their key, and both tables lie in its order. Doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.output.layout import EMBEDDINGS, REJECTS
from pipelines.output.parquet import read_table
from pipelines.records import Selection
from pipelines.storage import listing, reading

BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20


class OldRows:
    """The rows of one table of a unit that stay, handed out in the order of their key.

    Args:
        uri: the file; no rows if there is none.
        gone: source rows that are not handed out.
    """

    def __init__(self, uri: str, schema: pa.Schema, gone: pa.Array) -> None:
        self._batches = self._read(uri, schema, gone)
        self._schema = schema
        self._next: pa.Table | None = next(self._batches, None)

    def before(self, row: int | None) -> pa.Table:
        """Returns the rows whose source row is smaller; all that are left for None."""
        taken = [self._schema.empty_table()]
        while self._next is not None:
            rows = self._next["source_row"]
            count = len(rows) if row is None else int(pc.sum(pc.less(rows, row)).as_py() or 0)
            taken.append(self._next.slice(0, count))
            if count < len(rows):
                self._next = self._next.slice(count)
                break
            self._next = next(self._batches, None)
        return pa.concat_tables(taken)

    @staticmethod
    def _read(uri: str, schema: pa.Schema, gone: pa.Array) -> Iterator[pa.Table]:
        if not listing.exists(uri):
            return
        with reading.open_at_end(uri) as file:
            parquet = pq.ParquetFile(
                file, page_checksum_verification=True, buffer_size=BUFFER_BYTES, pre_buffer=False
            )
            for batch in parquet.iter_batches(BATCH_ROWS, columns=schema.names):
                table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                kept = table.filter(pc.invert(pc.is_in(table["source_row"], value_set=gone)))
                if kept.num_rows:
                    yield kept


def old_rows(only: Selection, embeddings: pa.Schema, rejects: pa.Schema) -> dict[str, OldRows]:
    """Opens what the output has of a unit, by table; what has an embedding is no reject."""
    embedded = table_rows(str(only.embedded)).combine_chunks()
    again = pa.array(selected_rows(only), pa.int64())
    gone = pa.concat_arrays([embedded, again])
    return {
        EMBEDDINGS: OldRows(str(only.embedded), embeddings, again),
        REJECTS: OldRows(only.tables[0], rejects, gone),
    }


def selected_rows(selection: Selection) -> list[int]:
    """Looks up the source rows that are to be read again, sorted."""
    found: set[int] = set()
    for uri in selection.tables:
        found.update(table_rows(uri, selection.reasons).to_pylist())
    if selection.embedded is not None:
        found.difference_update(table_rows(selection.embedded).to_pylist())
    return sorted(found)


def table_rows(uri: str, reasons: Collection[str] = ()) -> pa.ChunkedArray:
    """Returns the source rows in a file of a table; of rejects perhaps those of some reasons."""
    table = read_table(uri, ["source_row", *(["reason"] if reasons else [])])
    if reasons:
        table = table.filter(pc.field("reason").isin(list(reasons)))
    return table["source_row"]
