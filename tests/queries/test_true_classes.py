import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.output.scored_tables import ScoredTablesError
from pipelines.queries.true_classes import TruthError, read_truth

EXPECTED = {"a": "red", "b": "7"}


def test_every_form_gives_the_same(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"uid": "a", "label": "red"}\n\n{"uid": "b", "label": 7}\n{"uid": "c", "label": null}\n'
    )
    (tmp_path / "t.csv").write_text('uid,label\na,"red"\nb,7\nc,\n')
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"label\tuid\nred\ta\n7\tb\n"))
    pq.write_table(
        pa.table({"uid": ["a", "b", "c"], "label": ["red", "7", None]}), tmp_path / "t.parquet"
    )
    for name in ("t.jsonl", "t.csv", "t.tsv.gz", "t.parquet"):
        assert read_truth(str(tmp_path / name), "label") == EXPECTED


def test_ids_of_numbers_and_bytes_are_those_of_the_tables(tmp_path):
    lines = '{"uid": 7, "label": "cat"}\n{"uid": null, "label": "dog"}\n'
    (tmp_path / "t.jsonl").write_text(lines)
    pq.write_table(pa.table({"uid": [7], "label": ["cat"]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"uid": [b"7"], "label": ["cat"]}), tmp_path / "bytes.parquet")
    for name in ("t.jsonl", "numbers.parquet", "bytes.parquet"):
        assert read_truth(str(tmp_path / name), "label") == {"7": "cat"}


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path, name):
    content = "uid,label\na,red\n" if name == "t.csv" else '{"uid": "a", "label": "red"}\n'
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_truth(str(tmp_path / name), "label") == {"a": "red"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.txt", "uid", "expected a Parquet, JSONL, CSV or TSV file"),
        ("t.jsonl", '{"uid": "a"}\n', "has no column 'label'"),
        ("t.csv", "uid,colour\na,red\n", "has no column 'label'"),
        ("t.jsonl", "{cut\n", "cannot be read"),
        ("t.jsonl", "[1]\n", "cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(TruthError, match=message):
        read_truth(str(tmp_path / name), "label")


def test_absent_column_of_parquet_is_named(tmp_path):
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(ScoredTablesError, match="no column 'label'"):
        read_truth(str(tmp_path / "t.parquet"), "label")


def test_empty_file_gives_nothing(tmp_path):
    (tmp_path / "t.jsonl").touch()
    assert read_truth(str(tmp_path / "t.jsonl"), "label") == {}
