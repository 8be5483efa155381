"""Which units an output holds, by the footers of their files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipelines.output.layout import EMBEDDINGS
from pipelines.output.unit_record import NotARecordError, UnitRecord, read_record
from pipelines.ownership.planned import PlannedRun
from pipelines.storage import listing, uris

FOOTER_READERS = 16


def finished_units(output: str, table: str = EMBEDDINGS) -> list[UnitRecord]:
    """Reads the footers of all files of one of the two tables.

    Raises:
        NotARecordError: if a file there was not written by this program.
        OSError: as the filesystem reports it.
    """
    files = listing.list_files(uris.join(output, table))
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        return list(pool.map(_read_footer, [uri for uri in files if uri.endswith(".parquet")]))


def own_units(output: str, planned: PlannedRun | None, table: str = EMBEDDINGS) -> list[UnitRecord]:
    """Reads what `finished_units` does, and leaves out what was written for an output before.

    Args:
        planned: what is written down of the output's run; None where nothing is.
    """
    records = finished_units(output, table)
    return planned.own(records) if planned else records


def _read_footer(uri: str) -> UnitRecord:
    try:
        return read_record(uri)
    except NotARecordError as error:
        raise NotARecordError(
            f"{error}; use another `output`, or remove the file and run again"
        ) from error
