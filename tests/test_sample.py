import json
import tarfile

import pyarrow.parquet as pq
import pytest

from pipelines import sample
from pipelines.sample import FORMATS, TRUTH, write_sample
from pipelines.sample_rows import DAMAGES, SampleConfig, make_row

SMALL = {"image_size": 32}


def test_row_depends_on_config_and_number_alone():
    config = SampleConfig(swap_rate=0.3, broken_rate=0.3, **SMALL)
    assert make_row(config, 7) == make_row(config, 7)
    assert make_row(config, 7) != make_row(config, 8)


def test_rates_are_kept():
    config = SampleConfig(2000, swap_rate=0.15, word_swap_rate=0.2, broken_rate=0.1, **SMALL)
    truths = [make_row(config, number).truth for number in range(300)]
    swaps = [truth.swap for truth in truths]
    assert 0.08 < swaps.count("caption") / 300 < 0.22
    assert 0.12 < (swaps.count("colour") + swaps.count("shape")) / 300 < 0.28
    assert {truth.damage for truth in truths} == {"none", *DAMAGES}


def test_swapped_row_keeps_a_true_caption_in_the_truth():
    rows = [make_row(SampleConfig(swap_rate=1.0, **SMALL), number) for number in range(20)]
    assert all(row.text != row.truth.true_text for row in rows)


def test_unswapped_row_is_its_own_truth():
    row = make_row(SampleConfig(**SMALL), 0)
    assert row.truth.swap == "none" and row.text == row.truth.true_text


@pytest.mark.parametrize("manifest_format", FORMATS)
def test_every_form_holds_the_same_rows(tmp_path, manifest_format):
    config = SampleConfig(6, **SMALL)
    summary = write_sample(config, tmp_path, manifest_format)
    truth = [json.loads(line) for line in (tmp_path / TRUTH).open()]
    assert summary.rows == len(truth) == 6
    assert [row["uid"] for row in truth] == [make_row(config, n).uid for n in range(6)]


def test_parquet_holds_the_pictures(tmp_path):
    write_sample(SampleConfig(3, **SMALL), tmp_path, "parquet")
    table = pq.read_table(tmp_path / "manifest-00000.parquet")
    assert table.column_names == ["uid", "image_bytes", "text"]
    assert table["image_bytes"][0].as_py() == make_row(SampleConfig(3, **SMALL), 0).image


def test_tar_members_of_a_sample_are_adjacent(tmp_path):
    write_sample(SampleConfig(3, **SMALL), tmp_path, "webdataset")
    with tarfile.open(tmp_path / "manifest-00000.tar") as tar:
        suffixes = [name.split(".")[1] for name in tar.getnames()]
    assert suffixes == ["jpg", "txt", "json"] * 3


def test_several_files_share_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "ROWS_PER_FILE", 4)
    write_sample(SampleConfig(10, **SMALL), tmp_path, "jsonl")
    lines = [len(path.open().readlines()) for path in sorted(tmp_path.glob("manifest-*.jsonl"))]
    assert lines == [4, 4, 2]


def test_processes_make_the_same_rows(tmp_path, monkeypatch):
    config = SampleConfig(8, **SMALL)
    write_sample(config, tmp_path / "one", "parquet")
    monkeypatch.setattr(sample, "WORTH_PROCESSES", 1)
    write_sample(config, tmp_path / "many", "parquet")
    one, many = (pq.read_table(tmp_path / d / "manifest-00000.parquet") for d in ("one", "many"))
    assert one.equals(many)


def test_directory_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "x").touch()
    assert sample.main(["--output", str(tmp_path)]) == 2
    assert "expected an empty or new directory" in capsys.readouterr().err


def test_summary_names_the_manifest_last(tmp_path, capsys):
    output = str(tmp_path / "s")
    arguments = ["--rows", "20", "--swap_rate", "0.5", "--image_size", "32"]
    assert sample.main(["--output", output, *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(output)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"swap_rate": 1.2}, "`swap_rate` must be between 0 and 1, got 1.2"),
        ({"swap_rate": 0.6, "word_swap_rate": 0.6}, "must not exceed 1 together"),
        ({"rows": -1}, "must not be negative"),
        ({"image_size": 3}, "at least 16 pixels, got 3"),
        ({"word_swap": "size"}, "`word_swap` must be one of"),
    ],
)
def test_impossible_config_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**settings)
