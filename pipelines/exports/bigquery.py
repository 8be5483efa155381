"""What BigQuery needs to load a run from where it is: a schema for each table, and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.exports.exported_run import ExportedRun, ExportError
from pipelines.output.layout import EMBEDDINGS, REJECTS
from pipelines.output.scored_tables import file_schema
from pipelines.storage import reading, uris, writing
from schemas.bigquery import bigquery_schema, bounds_of


class BigQuery:
    """Writes OUTPUT/<table>.schema.json for both tables; the Parquet files are loaded as they are.

    Raises:
        ExportError: if a column has a type or a name that BigQuery lacks, or a value that its type
            there does not hold, as the files' own statistics tell.
    """

    outputs = (f"{EMBEDDINGS}.schema.json", f"{REJECTS}.schema.json")

    def __init__(self, run: ExportedRun) -> None:
        self._run = run
        try:
            self._schemas = {name: bigquery_schema(schema) for name, schema in _tables(run).items()}
        except ValueError as error:
            raise ExportError(str(error)) from error
        for uri in (*run.tables.embeddings, *run.tables.rejects):
            _check_ranges(uri)

    def start(self) -> None:
        """Writes the schemas."""
        for name, fields in self._schemas.items():
            text = json.dumps(fields, indent=2) + "\n"
            writing.write_atomically(self._schema_uri(name), text.encode())

    def write(self, uri: str) -> None:
        """Nothing becomes of a single file."""

    def finish(self) -> Sequence[str]:
        """Returns the commands to run, with DATASET to fill in."""
        return [self._command(name) for name in self._schemas]

    def _command(self, name: str) -> str:
        files = uris.join(self._run.tables.root, name, "*.parquet")
        return (
            "bq load --source_format=PARQUET --parquet_enable_list_inference "
            f"DATASET.{name} '{files}' {self._schema_uri(name)}"
        )

    def _schema_uri(self, name: str) -> str:
        return uris.join(self._run.output, f"{name}.schema.json")


def _tables(run: ExportedRun) -> dict[str, pa.Schema]:
    tables = {EMBEDDINGS: run.tables.schema}
    if run.tables.rejects:
        tables[REJECTS] = file_schema(run.tables.rejects[0])
    return tables


def _check_ranges(uri: str) -> None:
    """Compares the least and the largest values of a file with what BigQuery's types hold.

    Raises:
        ExportError: names the column.
    """
    with reading.open_at_end(uri) as file:
        metadata = pq.read_metadata(file)
    for field in metadata.schema.to_arrow_schema():
        bounds = bounds_of(field.type)
        if bounds is None or _is_within(metadata, field.name, bounds):
            continue
        raise ExportError(
            f"column {field.name!r} of {uri} has values beyond {bounds[0]} to {bounds[1]}, which "
            f"BigQuery does not hold as {field.type}; leave the column out of `keep_columns`, or "
            "convert it"
        )


def _is_within(metadata: pq.FileMetaData, name: str, bounds: tuple[Any, Any]) -> bool:
    try:
        found = list(_extremes(metadata, name))
    except (ValueError, OverflowError):  # Python ends where BigQuery does: with the year 9999
        return False
    return all(bounds[0] <= low and high <= bounds[1] for low, high in found)


def _extremes(metadata: pq.FileMetaData, name: str) -> Iterator[tuple[Any, Any]]:
    """Yields the least and the largest value of a column in each row group that tells."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            is_own = column.path_in_schema.split(".")[0] == name
            told = column.statistics if is_own else None
            if told is not None and told.has_min_max:
                yield told.min, told.max
