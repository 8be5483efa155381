import json
import sys

import numpy as np
import pyarrow.dataset as ds
import pytest

import clip_core
from pipelines import demo
from pipelines.sample import TRUTH
from pipelines.samples.ranking import auroc
from scored_runs import write_scored


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "out"
    assert demo.main(["--output", str(output), "--rows", "200", "--seed", "3"]) == 0
    return output


def test_similarity_tells_swapped_captions_from_true_ones(made):
    truth = {t["uid"]: t for t in map(json.loads, (made / "sample" / TRUTH).open())}
    table = ds.dataset(made / "embedded" / "embeddings").to_table().to_pydict()
    is_true = np.array([truth[uid]["swap"] == "none" for uid in table["uid"]])
    similarity = np.array(table["similarity"])
    assert 10 < (~is_true).sum() < 60
    assert auroc(similarity[is_true], similarity[~is_true]) > 0.99


def test_broken_pictures_are_the_rejects(made):
    truth = [t for t in map(json.loads, (made / "sample" / TRUTH).open()) if t["damage"] != "none"]
    rejects = ds.dataset(made / "embedded" / "rejects").to_table()
    assert sorted(rejects["uid"].to_pylist()) == sorted(t["uid"] for t in truth)


def test_table_shows_both_kinds_and_the_auroc(made):
    table = demo.results_table(made / "sample", made / "embedded")
    assert "true" in table and "swapped" in table and "(AUROC)" in table


def test_filter_keeps_a_share_and_no_swapped_caption(made):
    truth = {t["uid"]: t for t in map(json.loads, (made / "sample" / TRUTH).open())}
    kept = ds.dataset(made / "filtered" / "embeddings").to_table()["uid"].to_pylist()
    assert 0.7 * 200 < len(kept) < 0.85 * 200
    swapped = [uid for uid in kept if truth[uid]["swap"] != "none"]
    told = demo.swaps_kept(made / "sample", made / "filtered")
    assert f"{len(swapped)} of them among the {len(kept)} kept" in told
    assert len(swapped) <= 0.03 * len(kept)


def test_labels_meet_the_truth(made):
    accuracy = json.loads((made / "labels" / "accuracy.json").read_text())
    assert accuracy["top_1"] > 0.95 and accuracy["rows"] > 180


def test_report_is_written_beside_the_tables(made):
    page = (made / "report.html").read_text(encoding="utf-8")
    truth = [json.loads(line) for line in (made / "sample" / TRUTH).open()]
    assert f">{len(truth)}<" in page and "data:image/jpeg;base64," in page


def test_demo_goes_without_a_report_where_the_extra_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert demo.main(["--output", str(tmp_path / "out"), "--rows", "10"]) == 0
    assert "no report: plots need matplotlib" in capsys.readouterr().out
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("rows", ["-1", "0", "9"])
def test_demo_needs_a_few_rows(tmp_path, capsys, rows):
    assert demo.main(["--output", str(tmp_path / "out"), "--rows", rows]) == 2
    assert f"expected `--rows` of 10 or more, got {rows}" in capsys.readouterr().err


@pytest.mark.parametrize("swap", ["none", "caption"])
def test_table_needs_no_captions_of_both_kinds(tmp_path, swap):
    (tmp_path / "sample").mkdir()
    truth = [{"uid": str(n), "swap": swap, "damage": "none"} for n in range(3)]
    (tmp_path / "sample" / TRUTH).write_text("".join(json.dumps(t) + "\n" for t in truth))
    write_scored(tmp_path / "embedded", [[{"uid": t["uid"]} for t in truth]])
    table = demo.results_table(tmp_path / "sample", tmp_path / "embedded")
    assert "AUROC" not in table and "     0                 -" in table


def test_demo_can_be_run_again_but_touches_no_foreign_directory(made, tmp_path, capsys):
    assert demo.main(["--output", str(made), "--rows", "30"]) == 0
    (tmp_path / "precious.txt").touch()
    assert demo.main(["--output", str(tmp_path)]) == 2
    assert "expected an empty or new directory" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize("name", ["notes.txt", "sample/a.csv", "mine/a", "labels/labels/b.txt"])
def test_demo_removes_no_file_that_somebody_put_there(tmp_path, capsys, name):
    output = tmp_path / "out"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("mine")
    (output / demo.MARKER).touch()
    assert demo.main(["--output", str(output), "--rows", "10"]) == 2
    error = capsys.readouterr().err
    assert f"{output / name} is there" in error and error.count("\n") == 1
    assert (output / name).read_text() == "mine"


def test_bundled_model_names_colours_and_shapes():
    model = clip_core.load("tiny")
    texts = model.encode_text(model.tokenize(["a red circle", "a blue star"]), normalize=True)
    assert float(texts[0] @ texts[1]) < 0.5
    assert model.fingerprint["activation"] == "quick_gelu"
