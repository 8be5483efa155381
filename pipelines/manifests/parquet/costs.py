"""What a Parquet file costs who reads it: its largest page is held as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from pipelines.manifests.parquet.batches import damage_named
from pipelines.manifests.parquet.pages import MAX_PAGE_HEADER_BYTES, page_header
from pipelines.storage import reading

MAX_GROUPS = 3  # that are looked at
MAX_PAGES = 1000  # of a column of a row group


def largest_page(uri: str, column: str) -> int:
    """Returns what the largest page of a column unfolds to, in bytes, as far as was looked.

    Raises:
        DamagedParquet: if the file cannot be read.
        OSError: as the filesystem reports it.
    """
    with damage_named():
        return max(_page_bytes(uri, column), default=0)


def _page_bytes(uri: str, column: str) -> Iterator[int]:
    with reading.open_at_end(uri) as file:
        metadata = pq.ParquetFile(file, pre_buffer=False).metadata
        for group in map(metadata.row_group, range(min(metadata.num_row_groups, MAX_GROUPS))):
            for chunk in map(group.column, range(group.num_columns)):
                if chunk.path_in_schema.split(".")[0] != column:
                    continue
                starts = (chunk.dictionary_page_offset, chunk.data_page_offset)
                at = min(start for start in starts if start)
                end = at + chunk.total_compressed_size
                for _ in range(MAX_PAGES):
                    file.seek(at)
                    header = page_header(file.read(MAX_PAGE_HEADER_BYTES)) if at < end else None
                    if header is None:
                        break
                    yield header.unfolded_bytes
                    at += header.header_bytes + header.packed_bytes
