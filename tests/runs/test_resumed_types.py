"""Runs that go on with a manifest to which files were added, and types of kept columns with them."""

import json

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from embedding_runs import run
from making import encode_image, make_image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "0.png").write_bytes(encode_image(make_image(seed=1)))
    return tmp_path / "m"


def write(path, value):
    path.write_text(json.dumps({"url": "0.png", "text": "a red circle", "n": value}) + "\n")


def write_typed(path, value, kind):
    columns = {"url": ["0.png"], "text": ["a red circle"], "n": pa.array([value], kind)}
    pq.write_table(pa.table(columns), path)


def test_file_of_the_same_type_goes_on(tmp_path, folder, model_dir):
    kind = pa.list_(pa.struct([("a", pa.timestamp("s")), ("b", pa.time32("s"))]))
    for name in ("a", "b"):
        write_typed(folder / f"{name}.parquet", [{"a": 1}], kind)
        assert run(folder, tmp_path / "out", model_dir, "--keep_columns", "n") == 0
    assert ds.dataset(tmp_path / "out" / "embeddings").count_rows() == 2


def test_file_of_a_wider_type_does_not_go_on(tmp_path, folder, model_dir, capsys):
    write(folder / "a.jsonl", 1)
    assert run(folder, tmp_path / "out", model_dir, "--keep_columns", "n") == 0
    write(folder / "b.jsonl", 0.5)
    assert run(folder, tmp_path / "out", model_dir, "--keep_columns", "n") == 2
    said = capsys.readouterr().err
    assert "begun with column 'n' as int64, and the manifest has double now; use another" in said
    flags = ("--keep_columns", "n", "--overwrite")
    assert run(folder, tmp_path / "out", model_dir, *flags) == 0
    table = ds.dataset(tmp_path / "out" / "embeddings").to_table()
    assert sorted(table["n"].to_pylist()) == [0.5, 1.0] and table["n"].type == pa.float64()
