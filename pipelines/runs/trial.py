"""Embeds a sample of a manifest in this process, and measures it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.encoding.embed_rows import EmbedRows
from pipelines.engine.beam_options import LOCAL_RUNNER, new_pipeline
from pipelines.engine.tally import TALLY
from pipelines.output.layout import EMBEDDINGS, REJECTS, OutputLayout
from pipelines.output.parquet import parquet_bytes, read_table
from pipelines.records import Unit
from pipelines.runs.job import build, reader_of
from pipelines.storage import listing, uris
from schemas.embeddings import model_column

MAX_UNITS = 10  # that a sample is taken from


@dataclass
class SampleResult:
    """What became of a sample.

    Attributes:
        rows: of the manifest.
        records: one for each caption of a row.
        rejects: records by reason.
        details: number and detail of one row, by reason.
        truncated: captions longer than the model's context.
        repeated_ids: ids of more than one row.
        rows_per_s: of this process, work on the images and the model's together.
    """

    rows: int = 0
    records: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    truncated: int = 0
    repeated_ids: int = 0
    rows_per_s: float = 0.0
    bytes_per_row: float = 0.0


def embed_sample(
    units: Sequence[Unit], count: int, transform: EmbedRows, layout: OutputLayout
) -> SampleResult:
    """Embeds the first rows of up to ten units, evenly over the manifest, by the job itself.

    Args:
        layout: whose root is a directory of its own.
    """
    step = max(len(units) // MAX_UNITS, 1)
    chosen = units[::step][:MAX_UNITS]
    limit = -(-count // max(len(chosen), 1))
    sampled = [_first_rows(unit, limit) for unit in chosen]
    transform.handler.warm_up()  # the first pass of a model also pays for its start
    TALLY.restart()
    pipeline = new_pipeline(PipelineOptions(["--runner", LOCAL_RUNNER]))
    build(pipeline, reader_of(transform, layout, sampled, limit), transform, layout)
    pipeline.run().wait_until_finish()
    tables = {name: _table(layout, name) for name in (EMBEDDINGS, REJECTS)}
    result = _counted(tables[EMBEDDINGS], tables[REJECTS], layout.models)
    result.rows_per_s = result.rows / max(TALLY.seconds, 1e-6)
    size = sum(parquet_bytes(table, {}).size for table in tables.values())
    result.bytes_per_row = size / max(result.rows, 1)
    return result


def _first_rows(unit: Unit, limit: int) -> Unit:
    """Returns a unit of at most so many rows, as far as that is known before it is read."""
    if unit.only is not None:
        return replace(unit, only=replace(unit.only, count=None))
    if unit.rows is None or unit.rows <= limit:
        return unit
    return replace(unit, rows=limit, damage=None)


def _table(layout: OutputLayout, name: str) -> pa.Table:
    files = listing.list_files(uris.join(layout.root, name))
    tables = [read_table(uri) for uri in files if uri.endswith(".parquet")]
    return pa.concat_tables([layout.schema(name).empty_table(), *tables])


def _counted(embedded: pa.Table, rejects: pa.Table, models: Sequence[str | None]) -> SampleResult:
    places = pa.concat_tables([t.select(["source", "source_row"]) for t in (embedded, rejects)])
    rows = places.group_by(places.column_names).aggregate([]).num_rows
    result = SampleResult(rows, places.num_rows)
    about = rejects.select(["source", "source_row", "reason", "detail"]).to_pylist()
    result.rejects.update(row["reason"] for row in about)
    for row in about:
        place = f"{row['source_row']} of {row['source']}"
        detail = f"{place}: {row['detail']}" if row["detail"] else place
        result.details.setdefault(row["reason"], detail)
    columns = [model_column("text_truncated", name) for name in models]
    cut = [embedded[name].to_numpy() for name in columns if name in embedded.column_names]
    result.truncated = int(np.any(cut, axis=0).sum()) if cut else 0
    uids = Counter(embedded["uid"].to_pylist() + rejects["uid"].to_pylist())
    result.repeated_ids = sum(count > 1 for count in uids.values())
    return result
