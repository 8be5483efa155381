import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import plan

from pipelines.manifest import format_of, unit_id
from schemas.manifest import ManifestError

LINE = json.dumps({"url": "a.jpg", "text": "x"}) + "\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", "parquet"),
        ("A.JSONL", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.csv.zst", "csv"),
        ("a.tsv.bz2", "tsv"),
        ("a.tar", "webdataset"),
        ("a.tgz", "webdataset"),
        ("a.json", None),
        ("a.txt", None),
    ],
)
def test_format_shows_in_the_name(name, kind):
    assert format_of(name) == kind


def test_unit_ids_are_readable_and_tell_files_apart():
    first, other = unit_id("gs://a/part 1.jsonl.gz", 3), unit_id("gs://b/part 1.jsonl.gz", 3)
    assert first.startswith("part-1-") and first.endswith("-00003")
    assert first != other


def test_units_do_not_depend_on_how_the_manifest_is_named(tmp_path, monkeypatch):
    (tmp_path / "m.jsonl").write_text(LINE * 5)
    monkeypatch.chdir(tmp_path)
    named = [
        plan(name, rows_per_unit=2).units
        for name in ("m.jsonl", "*.jsonl", ".", f"file://{tmp_path}")
    ]
    assert all(units == named[0] for units in named)
    assert [unit.rows for unit in named[0]] == [2, 2, 1]


def test_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE)
    from pipelines.manifest import ManifestRequest, plan_units

    found = plan_units(ManifestRequest(patterns=(str(tmp_path), str(tmp_path / "m.jsonl"))))
    assert len(found.units) == 1


def test_other_files_of_a_directory_are_left_alone(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "_truth.jsonl").write_text("{}")
    assert len(plan(tmp_path).units) == 1


def test_relative_images_start_at_the_manifest_or_image_root(tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE)
    assert plan(tmp_path).units[0].image_root == str(tmp_path)
    assert plan(tmp_path, image_root="gs://images/").units[0].image_root == "gs://images"


@pytest.mark.parametrize("pattern", ["none.jsonl", "*.parquet", "empty"])
def test_nothing_matched_is_refused(tmp_path, pattern):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no manifest files matched"):
        plan(tmp_path / pattern)


def test_unknown_format_asks_for_the_flag(tmp_path):
    (tmp_path / "m.txt").write_text(LINE)
    with pytest.raises(ManifestError, match="does not show in its name; pass `--manifest_format`"):
        plan(tmp_path / "m.txt")
    assert plan(tmp_path / "m.txt", format="jsonl").rows == 1


def test_column_error_names_the_file(tmp_path):
    (tmp_path / "m.csv").write_text("picture,title\na.jpg,x\n")
    with pytest.raises(ManifestError, match="m.csv: no image column found.*columns picture, title"):
        plan(tmp_path / "m.csv")
    assert plan(tmp_path / "m.csv", image_column="picture", text_column="title").rows == 1


def test_kept_columns_need_one_type(tmp_path):
    for name, value in (("a", 1), ("b", "x")):
        table = pa.table({"url": ["u"], "text": ["t"], "license": [value]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(ManifestError, match="column 'license' is int64 in one .* and string"):
        plan(tmp_path, keep_columns=("license",))
