"""`clip-beam heads`: columns that small models make of the image embeddings of a run.

OUTPUT/embeddings/<unit>.parquet   all rows and columns of the run, and a column for each head
OUTPUT/rejects/<unit>.parquet      those of the run
OUTPUT/run.json, OUTPUT/_SUCCESS   as a run has them
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from threadpoolctl import threadpool_limits

from pipelines.command_line import exits
from pipelines.command_line.meter import meter
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import place
from pipelines.engine.per_file import Workers, over_files, parse_with_engine, side_by_side
from pipelines.engine.slots.choice import add_engine_flags
from pipelines.exports import derived_runs
from pipelines.output.layout import REJECTS
from pipelines.output.overwriting import make_room
from pipelines.output.parquet import FILES_WRITTEN
from pipelines.output.scored_tables import (
    ScoredTables,
    ScoredTablesError,
    check_columns,
    embedding_matrix,
    file_schema,
    iterate_batches,
)
from pipelines.output.whole_runs import add_incomplete_flag, add_input_flag, open_whole
from pipelines.probes.head import Head
from pipelines.probes.heads_of import add_head_flags, head_fields, heads_of
from pipelines.storage import reading, uris, writing
from pipelines.storage.redaction import redact
from schemas.embeddings import model_column, model_names


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options, workers = parse_with_engine(parser(), argv)
    try:
        tables = open_whole(options.input, options.allow_incomplete)
        dims = _dims(tables)
        heads = heads_of(
            options.head, options.head_activation, dims, tables.fingerprint, tables.schema.names
        )
        output = uris.normalize(options.output)
        derived_runs.check_output(tables, output)
        make_room(output, derived_runs.OUTPUTS, options.overwrite)
    except (ValueError, OSError) as error:
        return exits.fail("heads", str(error), exits.status_before(error))
    try:
        _write(tables, heads, output, workers)
    except (ScoredTablesError, OSError) as error:
        return exits.fail("heads", str(error), exits.status_of(error))
    print(f"rows       {tables.rows_of(tables.embeddings)}")
    print(f"columns    {', '.join(field.name for field in head_fields(heads))}")
    print(f"output     {redact(output)}")
    return 0


def parser() -> Parser:
    """Builds the command line of `clip-beam heads`."""
    flags = Parser(
        prog="clip-beam heads",
        description="Score the image embeddings of a run with small models, such as aesthetic "
        "predictors.",
        epilog=BEAM_FLAGS,
    )
    add_input_flag(group(flags, "input"))
    add_incomplete_flag(group(flags, "input"))
    add_head_flags(group(flags, "model"), required=True)
    add = group(flags, "output").add_argument
    add("--output", required=True, type=place, metavar="URI", help="directory to write")
    add("--overwrite", action="store_true", help="remove the scored rows that the output holds")
    add_engine_flags(group(flags, "running").add_argument)
    return flags


def _dims(tables: ScoredTables) -> dict[str | None, int]:
    """Returns the length of an image embedding, by model."""
    models: list[str | None] = [*model_names(tables.schema)] or [None]
    columns = {name: model_column("image_embedding", name) for name in models}
    check_columns(tables.schema, [*columns.values()], tables.embeddings[0])
    return {n: tables.schema.field(column).type.list_size for n, column in columns.items()}


def _write(
    tables: ScoredTables,
    heads: tuple[Head, ...],
    output: str,
    options: Workers | None,
) -> None:
    work = _Scoring(heads, output)
    with meter(tables.rows_of(tables.embeddings), "rows") as count:
        found = over_files(work, tables.embeddings, options, FILES_WRITTEN)
        for uri, _ in zip(tables.embeddings, found, strict=True):
            count(tables.rows_of([uri]))
    for _ in side_by_side(partial(_copy_rejects, output), tables.rejects):
        pass
    counts = {name: tables.rows_of(getattr(tables, table)) for name, table in _TABLES.items()}
    counts["rows_read"] = tables.counts.get("rows_read", sum(counts.values()))
    before = tables.record
    about = {"kept_from": before["kept_from"]} if "kept_from" in before else {}
    known = before.get("heads")
    about["heads"] = dict(known) if isinstance(known, dict) else {}
    about["heads"] |= {head.name: _about(head) for head in heads}
    derived_runs.finish(tables, output, tables.embeddings, counts, about)


def _copy_rejects(output: str, uri: str) -> None:
    target = uris.join(output, REJECTS, uris.base_name(uri))
    with reading.open_input(uri) as source, writing.open_output(target) as file:
        shutil.copyfileobj(source, file)


_TABLES = {"embedded": "embeddings", "rejected": "rejects"}


def _about(head: Head) -> dict[str, object]:
    return {"sha256": head.sha256, "model": head.model, "end": head.end}


@dataclass(frozen=True)
class _Scoring:
    """Writes one file of the embeddings table with the columns of heads."""

    heads: tuple[Head, ...]
    output: str

    def __call__(self, uri: str) -> None:
        schema = file_schema(uri)
        wider = pa.schema([*schema, *head_fields(self.heads)], schema.metadata)
        batches = self._batches(uri, schema, wider)
        # The products are too small for several threads, which only wait for each other.
        with threadpool_limits(limits=1, user_api="blas"):
            derived_runs.write_table(self.output, uri, "heads", wider, batches)

    def _batches(self, uri: str, schema: pa.Schema, wider: pa.Schema) -> Iterator[pa.RecordBatch]:
        for batch in iterate_batches(uri, schema.names):
            arrays = list(batch.columns)
            for head in self.heads:
                column = batch.column(model_column("image_embedding", head.model))
                arrays += head.columns(embedding_matrix(column))
            yield pa.RecordBatch.from_arrays(arrays, schema=wider)


if __name__ == "__main__":
    exits.run(main)
