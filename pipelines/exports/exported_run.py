"""A run that is to be written in another layout, and the writers that all layouts share."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
import pyarrow as pa

from pipelines.output.layout import FINGERPRINT_KEY
from pipelines.output.parquet import write_parquet
from pipelines.output.run_json import damaged
from pipelines.output.scored_tables import (
    ScoredTables,
    embedding_matrix,
    iterate_batches,
    remedy_of,
)
from pipelines.storage import writing
from schemas.embeddings import MODEL_COLUMNS, model_column, model_names
from schemas.pairs import BOTH

VECTORS = ("image_embedding", "text_embedding")
ToBatch = Callable[[pa.RecordBatch], pa.RecordBatch]


class ExportError(ValueError):
    """What was asked for cannot be made of this run: says what to do."""


@dataclass(frozen=True)
class ExportedRun:
    """The output of `embed` and where it goes.

    Attributes:
        tables: of the chosen model, where one was chosen.
        output: directory to write.
    """

    tables: ScoredTables
    output: str

    def column(self, name: str) -> str:
        """Returns the name of a column that depends on the model."""
        return self.tables.column(name)

    @property
    def kept(self) -> list[str]:
        """Columns that depend on no model, in the order of the table."""
        models: list[str | None] = [*model_names(self.tables.schema)] or [None]
        depend = {model_column(name, model) for name in MODEL_COLUMNS for model in models}
        return [name for name in self.tables.schema.names if name not in depend]

    @property
    def metadata(self) -> Mapping[bytes, str]:
        """Metadata of every Parquet file: what decided the values."""
        return {FINGERPRINT_KEY: json.dumps(dict(self.tables.fingerprint), sort_keys=True)}


class Layout(Protocol):
    """A way to lay a run out in files."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the files and directories it writes."""

    def start(self) -> None:
        """Writes what belongs before the files."""

    def write(self, uri: str) -> None:
        """Writes what becomes of one file of the embeddings table."""

    def finish(self) -> Sequence[str]:
        """Returns lines for the summary."""


def check_needs(tables: ScoredTables, columns: Sequence[str], format_name: str) -> None:
    """Makes sure that the run has what a layout needs.

    Raises:
        ExportError: if it was made with `scores_only`, or of images or captions alone.
    """
    absent = [name for name in columns if name not in tables.schema.names]
    if absent:
        remedy = remedy_of(tables.schema, absent[0]) or "choose another layout"
        has_scores = tables.pairs == BOTH and absent[0].endswith(VECTORS)
        others = ", or export with `format='laion'`" if has_scores else ""
        raise ExportError(
            f"`format={format_name!r}` needs {absent[0]!r}, which the table has not; "
            f"{remedy}{others}"
        )


def write_rows(
    run: ExportedRun, uri: str, target: str, columns: Sequence[str], to_batch: ToBatch
) -> None:
    """Writes the rows of one file as Parquet, batch by batch, in their order.

    Args:
        columns: those that `to_batch` needs; nothing else is read.
        to_batch: turns a batch of the embeddings table into one of the layout's; it is given one
            without rows first, for the schema.
    """
    fields = [run.tables.schema.field(name) for name in columns]
    empty = pa.RecordBatch.from_arrays(
        [pa.array([], field.type) for field in fields], schema=pa.schema(fields)
    )
    schema = to_batch(empty).schema.with_metadata(run.metadata)
    batches = iterate_batches(uri, columns)
    write_parquet(target, schema, (to_batch(batch) for batch in batches))


def write_npy(file: IO[bytes], uri: str, column: str, shape: tuple[int, int]) -> None:
    """Writes an embedding column as `.npy`: [rows, dim] float16, the header first, then batches."""
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for batch in iterate_batches(uri, [column]):
        if batch.column(0).null_count:
            raise damaged(uri, ValueError(f"a row lacks {column!r}"))
        file.write(embedding_matrix(batch.column(0)).astype("<f2").tobytes())


def write_npz(run: ExportedRun, target: str, uri: str, columns: Mapping[str, str]) -> None:
    """Writes embedding columns as the members of one `.npz`, uncompressed as `np.savez` does.

    Args:
        columns: column of the embeddings table by key of the archive.
    """
    with writing.open_output(target) as file, zipfile.ZipFile(file, "w") as archive:
        for key, column in columns.items():
            # A fixed time: equal input gives equal bytes.
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                dim = run.tables.schema.field(column).type.list_size
                write_npy(member, uri, column, (run.tables.rows_of([uri]), dim))
