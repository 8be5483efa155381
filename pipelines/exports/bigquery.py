"""What BigQuery needs to load a run from where it is: a schema for each table, and the commands."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from pipelines.exports.exported_run import ExportedRun, ExportError
from pipelines.output.layout import EMBEDDINGS, REJECTS
from pipelines.output.scored_tables import file_schema
from pipelines.storage import uris, writing
from schemas.bigquery import bigquery_schema


class BigQuery:
    """Writes OUTPUT/<table>.schema.json for both tables; the Parquet files are loaded as they are.

    Raises:
        ExportError: if a column has a type that BigQuery lacks.
    """

    outputs = (f"{EMBEDDINGS}.schema.json", f"{REJECTS}.schema.json")

    def __init__(self, run: ExportedRun) -> None:
        self._run = run
        try:
            self._schemas = {name: bigquery_schema(schema) for name, schema in _tables(run).items()}
        except ValueError as error:
            raise ExportError(str(error)) from error

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
