import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.queries.labels import labels_batch, labels_file
from schemas.labels import LABELLED_NAMES, LABELS_SCHEMA


def keys(rows):
    columns = {"uid": [f"row-{n}" for n in range(rows)], "source": ["m"] * rows}
    columns |= {"source_row": list(range(rows)), "caption_index": [0] * rows}
    schema = pa.schema([LABELS_SCHEMA.field(name) for name in LABELLED_NAMES])
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def test_likeliest_come_first_with_probabilities_over_all_labels():
    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], np.float32))
    found = labels_batch(keys(2), logits, ["a", "b", "c"], 2).to_pydict()
    assert found["labels"] == [["b", "c"], ["c", "a"]]
    assert found["probabilities"][0] == pytest.approx([0.5, 0.3])
    assert found["uid"] == ["row-0", "row-1"] and found["source_row"] == [0, 1]


def test_ties_keep_the_order_of_the_labels():
    found = labels_batch(keys(1), np.zeros((1, 4), np.float32), ["d", "b", "c", "a"], 4)
    assert found["labels"].to_pylist() == [["d", "b", "c", "a"]]
    assert found["probabilities"].to_pylist() == [[0.25] * 4]


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_file_holds_all_batches_and_the_metadata(tmp_path, batches):
    logits = np.zeros((2, 2), np.float32)
    rows = [labels_batch(keys(2), logits, ["a", "b"], 1) for _ in range(batches)]
    (tmp_path / "t.parquet").write_bytes(labels_file(rows, {b"clip_beam.labels": "[]"}))
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 2 * batches
    assert table.schema.remove_metadata() == LABELS_SCHEMA
    assert table.schema.metadata[b"clip_beam.labels"] == b"[]"


def test_no_rows_make_an_empty_batch():
    found = labels_batch(keys(0), np.empty((0, 3), np.float32), ["a", "b", "c"], 2)
    assert found.num_rows == 0 and found.schema == LABELS_SCHEMA
