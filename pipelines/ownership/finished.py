"""Which units an output holds, by the footers of their files."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from pipelines.output.layout import EMBEDDINGS, REJECTS
from pipelines.output.unit_record import NotARecordError, UnitRecord, read_record
from pipelines.ownership.planned import PlannedRun
from pipelines.records import Unit
from pipelines.storage import listing, uris
from pipelines.storage.stores import is_local

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


def files_there(output: str, units: Iterable[Unit]) -> frozenset[str] | None:
    """Returns which files of some units lie in a store, by one listing of each table; None of this
    machine, where it costs nothing to look for each."""
    if is_local(output):
        return None
    names = {f"{unit.unit_id}.parquet" for unit in units}
    found = [listing.list_files(uris.join(output, table)) for table in (EMBEDDINGS, REJECTS)]
    return frozenset(uri for files in found for uri in files if uris.base_name(uri) in names)


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
