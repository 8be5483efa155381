"""Merges rows that were read again with what the output has of their unit, row group by row group.

Rows are told by their key, row of the manifest and caption, and both tables lie in its order. Doing
it twice changes nothing.
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
from schemas.embeddings import MAX_CAPTIONS

BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20
KEY_BITS = MAX_CAPTIONS.bit_length()  # of the caption in a key


class OldRows:
    """The rows of one table of a unit that stay, handed out in the order of their key.

    Args:
        uri: the file; no rows if there is none.
        gone: keys that are not handed out.
    """

    def __init__(self, uri: str, schema: pa.Schema, gone: pa.Array) -> None:
        self._batches = self._read(uri, schema, gone)
        self._schema = schema
        self._next: pa.Table | None = next(self._batches, None)

    def before(self, key: int | None) -> pa.Table:
        """Returns the rows whose key is smaller; all that are left for None."""
        taken = [self._schema.empty_table()]
        while self._next is not None:
            keys = keys_of(self._next)
            count = len(keys) if key is None else int(pc.sum(pc.less(keys, key)).as_py() or 0)
            taken.append(self._next.slice(0, count))
            if count < len(keys):
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
                kept = table.filter(pc.invert(pc.is_in(keys_of(table), value_set=gone)))
                if kept.num_rows:
                    yield kept


def old_rows(only: Selection, embeddings: pa.Schema, rejects: pa.Schema) -> dict[str, OldRows]:
    """Opens what the output has of a unit, by table; what has an embedding is no reject."""
    embedded = table_keys(str(only.embedded)).combine_chunks()
    again = pa.array(selected_keys(only), pa.int64())
    gone = pa.concat_arrays([embedded, again])
    return {
        EMBEDDINGS: OldRows(str(only.embedded), embeddings, again),
        REJECTS: OldRows(only.tables[0], rejects, gone),
    }


def selected_keys(selection: Selection) -> list[int]:
    """Looks up the keys of what is to be read again, sorted."""
    found: set[int] = set()
    for uri in selection.tables:
        found.update(table_keys(uri, selection.reasons).to_pylist())
    if selection.embedded is not None:
        found.difference_update(table_keys(selection.embedded).to_pylist())
    return sorted(found)


def table_keys(uri: str, reasons: Collection[str] = ()) -> pa.ChunkedArray:
    """Returns the keys in a file of a table; of rejects perhaps those of some reasons."""
    table = read_table(uri, ["source_row", "caption_index", *(["reason"] if reasons else [])])
    if reasons:
        table = table.filter(pc.field("reason").isin(list(reasons)))
    return keys_of(table)


def key_of(source_row: int, caption_index: int) -> int:
    """Returns the key of a record in its unit, by which both tables are ordered."""
    return source_row << KEY_BITS | caption_index


def keys_of(table: pa.Table) -> pa.ChunkedArray:
    """Returns [rows] int64, the key of each row."""
    rows = pc.shift_left(table["source_row"], pa.scalar(KEY_BITS, pa.int64()))
    return pc.bit_wise_or(rows, table["caption_index"])
