"""Chunks as Score hands them on, and units written from them by the writer alone."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from making import make_row
from pipelines.engine.chunks import make_chunk
from pipelines.output.layout import EMBEDDINGS
from pipelines.output.write_units import _Write
from pipelines.ownership.lock import check_held
from pipelines.records import End, Reject, Row, Unit, Vectors
from schemas.embeddings import IMAGE_FIELDS
from schemas.manifest import Columns
from schemas.rejects import Reason

UNIT = Unit("unit-0", "/data/m.jsonl", "jsonl", Columns(), "/data", 0, None, 0, manifest_bytes=99)
FINGERPRINT = {"checkpoint_sha256": "abc", "precision": "fp32"}


def reject(number, reason=Reason.NOT_FOUND):
    return Reject(make_row(number), "fetch", reason, "gone")


def chunk(records, number=0, end=None, unit=UNIT, kept=()):
    """A chunk as Score hands it on; a plain number stands for a row that was embedded."""
    records = [make_row(r) if isinstance(r, int) else r for r in records]
    made = make_chunk(records, kept, unit=unit, number=number, end=end and End(*end, end[1]))
    rows = [record for record in records if isinstance(record, Row)]
    known = [[80] * len(rows), [70] * len(rows), ["00"] * len(rows)]
    arrays = [pa.array(v, f.type) for v, f in zip(known, IMAGE_FIELDS, strict=True)]
    made.known = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(IMAGE_FIELDS))
    vectors = np.eye(4, dtype=np.float32)[[row.source_row % 4 for row in rows]].reshape(-1, 4)
    made.images, made.vectors = (), (Vectors(vectors, vectors, np.zeros(len(rows), bool)),)
    made.similarities = (np.full(len(rows), 0.5, np.float32),)
    return made


def writer_of(layout, check=None):
    """A writer at the beginning of its bundle; `check` is called before a file gets its name."""
    check = check or partial(check_held, layout.root, layout.run)
    writer = _Write(layout, check, lambda result: None)
    writer.setup()
    writer.start_bundle()
    return writer


def written(layout, *chunks):
    """Writes one bundle; returns the results, and leaves nothing open."""
    writer = writer_of(layout)
    try:
        results = [result for c in chunks for result in writer.process(c)]
        results += [windowed.value for windowed in writer.finish_bundle()]
    finally:
        writer.teardown()
    return results


def whole(layout, *records, unit=UNIT, kept=()):
    """Writes a unit of one chunk."""
    (result,) = written(layout, chunk(records, 0, (1, len(records)), unit, kept))
    return result


def table(root, name=EMBEDDINGS, unit="unit-0"):
    return pq.read_table(root / name / f"{unit}.parquet")


def rows(root, name=EMBEDDINGS, unit="unit-0"):
    return table(root, name, unit)["source_row"].to_pylist()


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
