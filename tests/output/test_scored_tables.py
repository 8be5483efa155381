import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.output.layout import FINGERPRINT_KEY
from pipelines.output.scored_tables import (
    ScoredTablesError,
    embedding_matrix,
    iterate_batches,
    open_tables,
)
from scored_runs import write_scored


def test_output_is_found_with_its_fingerprint_and_record(tmp_path):
    write_scored(tmp_path, [[{}, {}], [{}]], record={"options": {"model": "tiny"}})
    tables = open_tables(str(tmp_path))
    assert [uri.rsplit("/", 1)[1] for uri in tables.embeddings] == [
        "unit-0.parquet",
        "unit-1.parquet",
    ]
    assert tables.rejects == ()
    assert tables.fingerprint == {"checkpoint_sha256": "c0ffee"}
    assert tables.options == {"model": "tiny"}
    assert tables.rows_of(tables.embeddings) == 3


def test_run_that_has_not_finished_has_an_empty_record(tmp_path):
    tables = open_tables(str(write_scored(tmp_path, [[]], whole=False)))
    assert tables.record == {} and tables.options == {}


def test_batches_hold_the_columns_asked_for_in_that_order(tmp_path):
    write_scored(tmp_path, [[{"similarity": n / 10} for n in range(7)]])
    uri = open_tables(str(tmp_path)).embeddings[0]
    batches = list(iterate_batches(uri, ["similarity", "uid"], batch_rows=3))
    assert [batch.num_rows for batch in batches] == [3, 3, 1]
    assert batches[0].schema.names == ["similarity", "uid"]
    assert batches[2].column("uid").to_pylist() == ["row-6"]


def test_memory_filesystem_is_read_like_any_other(tmp_path):
    write_scored(tmp_path, [[{}]])
    files = fsspec.filesystem("memory")
    files.makedirs("/scored/embeddings")
    files.pipe_file(
        "/scored/embeddings/u.parquet", (tmp_path / "embeddings/unit-0.parquet").read_bytes()
    )
    tables = open_tables("memory://scored")
    assert sum(b.num_rows for b in iterate_batches(tables.embeddings[0], ["uid"])) == 1


def test_run_json_is_read_again_when_the_store_fails_for_now(tmp_path, store_fails_once):
    write_scored(tmp_path, [[{}]], record={"options": {"model": "tiny"}})
    fsspec.filesystem("memory").put(str(tmp_path), "/again", recursive=True)
    assert open_tables("memory://again").options == {"model": "tiny"}
    assert not store_fails_once


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_embedding_matrix_is_float32_also_of_a_slice(dtype):
    values = np.arange(12, dtype=dtype)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), 3)
    found = embedding_matrix(column.slice(1, 2))
    assert found.dtype == np.float32
    assert found.tolist() == [[3, 4, 5], [6, 7, 8]]


def test_directory_of_something_else_is_refused(tmp_path):
    with pytest.raises(ScoredTablesError, match="expected the output directory of"):
        open_tables(str(tmp_path))
    (tmp_path / "embeddings").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "embeddings" / "a.parquet")
    with pytest.raises(ScoredTablesError, match="was not written by"):
        open_tables(str(tmp_path))


def test_absent_column_is_named_with_the_remedy(tmp_path):
    uri = open_tables(str(write_scored(tmp_path, [[{}]]))).embeddings[0]
    with pytest.raises(ScoredTablesError, match="no column 'label'; it has uid, source"):
        list(iterate_batches(uri, ["label"]))
    table = pq.read_table(uri).drop_columns(["image_embedding"])
    pq.write_table(table, uri)
    with pytest.raises(ScoredTablesError, match="without `scores_only`"):
        list(iterate_batches(uri, ["image_embedding"]))


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_file_is_named(tmp_path, damage):
    path = write_scored(tmp_path, [[{"text": f"caption {n}"} for n in range(300)]]) / (
        "embeddings/unit-0.parquet"
    )
    table = pq.read_table(path)
    pq.write_table(table, path, write_page_checksum=True, compression="zstd")
    tables = open_tables(str(tmp_path))
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-9:]
    else:
        data[200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ScoredTablesError, match="is damaged"):
        list(iterate_batches(tables.embeddings[0], ["uid", "text"]))


@pytest.mark.parametrize(
    "text",
    [
        "{cut",
        "",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        '{"options": []}',
        '{"counts": "all"}',
        '{"seconds": {"wall": "long"}}',
        '{"seconds": {"wall": NaN}}',
        '{"seconds": {"wall": -1}}',
        '{"counts": {"rows_read": true}}',
        '{"versions": 1}',
    ],
)
def test_damaged_run_json_is_named_with_what_mends_it(tmp_path, text):
    write_scored(tmp_path, [[{}]])
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(
        ScoredTablesError, match=r"run.json is damaged.*; remove it and run `embed`"
    ):
        open_tables(str(tmp_path))


@pytest.mark.parametrize("text", [b"{cut", b"[]", b"\xff"])
def test_damaged_fingerprint_is_named(tmp_path, text):
    path = write_scored(tmp_path, [[{}]]) / "embeddings" / "unit-0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({FINGERPRINT_KEY: text}), path)
    with pytest.raises(ScoredTablesError, match="unit-0.parquet is damaged"):
        open_tables(str(tmp_path))


@pytest.mark.parametrize(
    "name, values",
    [
        ("url", pa.array([1])),
        ("sha256", pa.array([[1]])),
        ("text", pa.array([b"x"])),
        ("source_row", pa.array(["0"])),
        ("source_row", pa.array([None], pa.int64())),
        ("source", pa.array([None], pa.string())),
        ("uid", pa.array([None], pa.string())),
    ],
)
def test_table_whose_rows_cannot_be_named_is_damaged(tmp_path, name, values):
    path = write_scored(tmp_path, [[{}]]) / "embeddings" / "unit-0.parquet"
    table = pq.read_table(path)
    table = table.set_column(table.schema.get_field_index(name), name, values)
    pq.write_table(table, path)
    with pytest.raises(ScoredTablesError, match=f"unit-0.parquet is damaged .*{name}"):
        list(iterate_batches(str(path), ["uid", name]))
