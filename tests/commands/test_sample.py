import csv
import io
import json
import re
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import sample
from pipelines.sample import FORMATS, TRUTH, write_sample
from pipelines.samples.rows import DAMAGES, SampleConfig, make_row
from pipelines.samples.scenes import BACKGROUNDS, COLOURS, HELD_OUT_PAIRS, SHAPES

SMALL = {"image_size": 32}


def rows(count, **settings):
    config = SampleConfig(**SMALL, **settings)
    return [make_row(config, number) for number in range(count)]


def false_words(row):
    """Finds what a caption of a single object names and its picture does not show."""
    named = set(re.findall(r"\w+", row.text)) & {*COLOURS, *SHAPES, *BACKGROUNDS}
    return named - {row.truth.colour, row.truth.shape, row.truth.background}


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
    swapped = rows(20, swap_rate=1.0)
    assert {row.truth.swap for row in swapped} == {"caption"}
    assert all(row.text != row.truth.true_text for row in swapped)


def test_swapped_caption_is_false_by_its_words():
    for row in rows(200, swap_rate=1.0, one_object=True):
        # "a", "an" and "shape" fit every object: then the size or the number must be wrong.
        assert false_words(row) or re.search("large|big|small|little", row.text), row.text


def test_unswapped_caption_is_true_by_its_words():
    assert not any(false_words(row) for row in rows(200, one_object=True))


@pytest.mark.parametrize(("kind", "words"), [("colour", COLOURS), ("shape", SHAPES)])
def test_word_swap_changes_a_word_of_its_kind(kind, words):
    for row in rows(100, word_swap_rate=1.0, word_swap=kind, one_object=True):
        assert row.truth.swap == kind
        (changed,) = false_words(row)
        assert changed in words and getattr(row.truth, kind) in row.truth.true_text.split()


def test_any_word_swap_changes_either_kind():
    swaps = [row.truth.swap for row in rows(60, word_swap_rate=1.0)]
    assert set(swaps) == {"colour", "shape"}


def test_swaps_leave_the_pictures_alone():
    plain, swapped = rows(5), rows(5, swap_rate=1.0)
    assert [row.image for row in plain] == [row.image for row in swapped]


def opens(data):
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def test_damaged_pictures_do_not_open():
    for row in rows(150, broken_rate=1.0):
        assert (row.image is None) == (row.truth.damage == "missing")
        assert row.image is None or not opens(row.image)


def test_whole_pictures_open():
    assert all(opens(row.image) for row in rows(20))


@pytest.mark.parametrize(("pairs", "held_out"), [("seen", False), ("unseen", True)])
def test_truth_says_whether_the_pair_is_held_out(pairs, held_out):
    for row in rows(50, colour_shape_pairs=pairs):
        assert row.truth.pair_held_out is held_out
        assert ((row.truth.colour, row.truth.shape) in HELD_OUT_PAIRS) is held_out


@pytest.mark.parametrize("swap", ["swap_rate", "word_swap_rate"])
def test_seen_captions_name_no_held_out_pair(swap):
    forbidden = re.compile("|".join(f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS))
    for row in rows(200, colour_shape_pairs="seen", **{swap: 0.5}):
        assert not forbidden.search(row.text) and not forbidden.search(row.truth.true_text)


def test_uids_are_distinct_hex_and_go_with_the_seed():
    uids = [row.uid for seed in (0, 1) for row in rows(20, seed=seed)]
    assert len(set(uids)) == 40
    assert all(re.fullmatch("[0-9a-f]{32}", uid) for uid in uids)


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


@pytest.mark.parametrize("manifest_format", FORMATS)
def test_same_config_gives_the_same_bytes(tmp_path, manifest_format):
    config = SampleConfig(5, swap_rate=0.3, broken_rate=0.3, **SMALL)
    contents = []
    for name in ("first", "again"):
        write_sample(config, tmp_path / name, manifest_format)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def text_records(path):
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


@pytest.mark.parametrize("manifest_format", ["jsonl", "csv", "tsv"])
def test_text_forms_name_the_picture_files(tmp_path, manifest_format):
    write_sample(SampleConfig(8, **SMALL), tmp_path, manifest_format)
    records = text_records(tmp_path / f"manifest-00000.{manifest_format}")
    for record, row in zip(records, rows(8), strict=True):
        assert (record["uid"], record["text"]) == (row.uid, row.text)
        assert (tmp_path / record["image_path"]).read_bytes() == row.image


def test_missing_picture_is_a_missing_file(tmp_path):
    write_sample(SampleConfig(40, broken_rate=1.0, **SMALL), tmp_path, "csv")
    truth = {t["uid"]: t["damage"] for t in map(json.loads, (tmp_path / TRUTH).open())}
    for record in text_records(tmp_path / "manifest-00000.csv"):
        there = (tmp_path / record["image_path"]).exists()
        assert there == (truth[record["uid"]] != "missing")


def test_missing_picture_is_null_in_parquet(tmp_path):
    write_sample(SampleConfig(40, broken_rate=1.0, **SMALL), tmp_path, "parquet")
    images = pq.read_table(tmp_path / "manifest-00000.parquet")["image_bytes"]
    truth = [json.loads(line) for line in (tmp_path / TRUTH).open()]
    assert images.null_count == sum(row["damage"] == "missing" for row in truth) > 0


def test_no_rows_make_an_empty_manifest(tmp_path):
    assert write_sample(SampleConfig(0), tmp_path, "parquet").rows == 0
    assert pq.read_table(tmp_path / "manifest-00000.parquet").num_rows == 0


def test_summary_counts_what_the_truth_says(tmp_path):
    config = SampleConfig(60, swap_rate=0.3, word_swap_rate=0.3, broken_rate=0.3, **SMALL)
    summary = write_sample(config, tmp_path, "parquet")
    truth = [json.loads(line) for line in (tmp_path / TRUTH).open()]
    for kind, count in summary.swaps.items():
        assert kind != "none" and count == sum(row["swap"] == kind for row in truth)
    assert summary.damages.total() == sum(row["damage"] != "none" for row in truth)


def test_parquet_holds_the_pictures(tmp_path):
    write_sample(SampleConfig(3, **SMALL), tmp_path, "parquet")
    table = pq.read_table(tmp_path / "manifest-00000.parquet")
    assert table.column_names == ["uid", "image_bytes", "text"]
    assert table["image_bytes"][0].as_py() == make_row(SampleConfig(3, **SMALL), 0).image


def test_tar_members_of_a_sample_are_adjacent(tmp_path):
    write_sample(SampleConfig(3, **SMALL), tmp_path, "webdataset")
    with tarfile.open(tmp_path / "manifest-00000.tar") as tar:
        members = tar.getmembers()
        assert tar.extractfile(members[0]).read() == make_row(SampleConfig(**SMALL), 0).image
    assert [member.name.split(".")[1] for member in members] == ["jpg", "txt", "json"] * 3
    assert {member.mtime for member in members} == {0}
    assert (tmp_path / "manifest-00000.tar").read_bytes().endswith(bytes(1024))


def test_several_files_share_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "ROWS_PER_FILE", 4)
    write_sample(SampleConfig(10, **SMALL), tmp_path, "jsonl")
    lines = [len(path.open().readlines()) for path in sorted(tmp_path.glob("manifest-*.jsonl"))]
    assert lines == [4, 4, 2]


def test_processes_make_the_same_rows(tmp_path, monkeypatch):
    config = SampleConfig(8, **SMALL)
    write_sample(config, tmp_path / "one", "parquet")
    monkeypatch.setattr(sample, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(sample, "ROWS_PER_FILE", 5)
    write_sample(config, tmp_path / "many", "parquet")
    one, *many = (
        pq.read_table(path)
        for directory in ("one", "many")
        for path in sorted((tmp_path / directory).glob("*.parquet"))
    )
    assert [part.num_rows for part in many] == [5, 3]
    assert one.equals(pa.concat_tables(many))


def test_directory_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "x").touch()
    assert sample.main(["--output", str(tmp_path)]) == 2
    assert "expected an empty or new directory" in capsys.readouterr().err


def test_file_in_place_of_the_output_is_refused(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match="expected an empty or new directory, got .*x; name"):
        write_sample(SampleConfig(1), tmp_path / "x", "parquet")


def test_unknown_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`manifest_format` must be one of .*, got 'xml'"):
        write_sample(SampleConfig(1), tmp_path / "new", "xml")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--swap-rate", "0.1"], "unknown flag --swap-rate; did you mean --swap_rate?"),
        (["--manifest_format", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_bad_flag_ends_with_status_two(tmp_path, argv, message, capsys):
    assert sample.main(["--output", str(tmp_path / "new"), *argv]) == 2
    assert message in capsys.readouterr().err


def test_impossible_value_ends_with_status_two(tmp_path, capsys):
    assert sample.main(["--output", str(tmp_path / "new"), "--rows", "-5"]) == 2
    assert capsys.readouterr().err == "clip-beam sample: `--rows` must not be negative, got -5\n"


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
        ({"broken_rate": float("nan")}, "`broken_rate` must be between 0 and 1, got nan"),
        ({"rows": -1}, "`rows` must not be negative, got -1"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"image_size": 3}, "at least 16 pixels, got 3"),
        ({"word_swap": "size"}, "`word_swap` must be one of"),
    ],
)
def test_impossible_config_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**settings)
