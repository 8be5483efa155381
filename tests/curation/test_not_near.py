import json
import pickle
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.curation.duplicates import not_near
from pipelines.curation.duplicates.not_near import near_any, not_near_rule
from pipelines.output.scored_tables import open_tables
from scored_runs import filtered, write_scored


def unit(values):
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def vectors(rows, dim=4, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def write(root, found, **settings):
    rows = [{"image_embedding": vector} for vector in found]
    half = len(rows) // 2
    return write_scored(root, [rows[:half], rows[half:]], dim=found.shape[1], **settings)


@pytest.mark.parametrize(("rows", "others"), [(1, 1), (7, 0), (0, 7), (50, 33), (33, 50)])
@pytest.mark.parametrize("blocks", [(1, 1), (8, 5), (1024, 4096)])
@pytest.mark.parametrize("cosine", [0.5, 0.9])
def test_every_pair_is_compared_whatever_the_blocks(rows, others, blocks, cosine, monkeypatch):
    monkeypatch.setattr(not_near, "OWN_ROWS", blocks[0])
    monkeypatch.setattr(not_near, "OTHER_ROWS", blocks[1])
    own, other = vectors(rows), vectors(others, seed=1)
    expected = [any(float(a @ b) >= cosine for b in other) for a in own]
    assert near_any(own, other, cosine).tolist() == expected


def test_the_bound_itself_is_near():
    own = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    assert near_any(own, np.array([[1, 0]], np.float32), 0.75).tolist() == [True, False]


def test_rows_near_another_run_are_a_step_behind_the_score(tmp_path, capsys):
    own = vectors(60)
    write(tmp_path / "run", own)
    tests = np.concatenate([own[[3, 40]], unit(own[[7]] + 0.01)])
    other = write(tmp_path / "tests", tests)
    flags = ("--not_near", str(other), "--min_similarity", "0")
    assert filtered(tmp_path, "--output", str(tmp_path / "out"), *flags) == 0
    expected = int((own @ tests.T < np.float32(0.95)).all(axis=1).sum())
    assert expected < 58
    steps = json.loads((tmp_path / "out/run.json").read_text())["kept_from"]["steps"]
    assert [(step["condition"], step["rows"]) for step in steps] == [
        ("read", 60),
        ("embedded", 60),
        ("similarity >= 0.0", 60),
        (f"no image of {other} within cosine 0.95", expected),
    ]
    table = pa.concat_tables(
        pq.read_table(p) for p in sorted((tmp_path / "out/embeddings").iterdir())
    )
    assert not {"row-3", "row-7", "row-40"} & set(table["uid"].to_pylist())
    assert filtered(tmp_path, "--dry_run", *flags, "--not_near_cosine", "0.9999999") == 0
    assert re.search(r"within cosine 0.9999999 +58 ", capsys.readouterr().out)


def test_several_runs_are_a_step_each_and_workers_load_them(tmp_path, capsys):
    own = vectors(20)
    write(tmp_path / "run", own)
    one, two = write(tmp_path / "one", own[:4]), write(tmp_path / "two", own[2:6])
    flags = ["--not_near", str(one), "--not_near", str(two), "--not_near_cosine", "0.99999"]
    assert filtered(tmp_path, "--dry_run", *flags, "--runner", "FnApiRunner") == 0
    said = capsys.readouterr().out
    assert re.search(r"no image of .*one within cosine 0.99999 +16 ", said)
    assert re.search(r"no image of .*two within cosine 0.99999 +14 ", said)


def test_a_rule_travels_without_the_vectors_and_a_new_run_is_read_anew(tmp_path):
    own = vectors(20)
    run = open_tables(str(write(tmp_path / "run", own)))
    other = write(tmp_path / "other", vectors(500, seed=1))
    assert len(pickle.dumps(not_near_rule(run, open_tables(str(other)), 0.9))) < 2000
    batch = next(run.batches(run.embeddings[0], ["image_embedding"]))
    for path in (other / "embeddings").iterdir():
        path.unlink()
    (other / "embeddings").rmdir()
    write(other, own)
    assert not not_near_rule(run, open_tables(str(other)), 0.9).keeps(batch).any()


def test_a_run_without_an_embedded_row_drops_nothing(tmp_path):
    run = open_tables(str(write(tmp_path / "run", vectors(3))))
    write_scored(tmp_path / "none", [[]], rejects=[{"reason": "not_found"}])
    rule = not_near_rule(run, open_tables(str(tmp_path / "none")), 0.9)
    assert rule.keeps(next(run.batches(run.embeddings[0], ["image_embedding"]))).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"fingerprint": {"checkpoint_sha256": "beef"}},
            "expected `--not_near` a run of the model that is filtered, with checkpoint_sha256 "
            "'c0ffee', got 'beef'",
        ),
        ({"dim": 5}, "with vectors of 4 numbers, got 5"),
        ({"whole": False}, "expected a run that is whole"),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused(tmp_path, capsys, changes, told):
    write(tmp_path / "run", vectors(3))
    settings = dict(changes)
    write(tmp_path / "tests", vectors(3, settings.pop("dim", 4)), **settings)
    assert filtered(tmp_path, "--dry_run", "--not_near", str(tmp_path / "tests")) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["run", "tests"])
def test_scores_alone_are_refused(tmp_path, capsys, name):
    for each in ("run", "tests"):
        write(tmp_path / each, vectors(3))
    for path in (tmp_path / name / "embeddings").iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["image_embedding"]), path)
    assert filtered(tmp_path, "--dry_run", "--not_near", str(tmp_path / "tests")) == 2
    assert "embed again without `scores_only`" in capsys.readouterr().err


@pytest.mark.parametrize("cosine", ["0", "1", "-0.5", "nan"])
def test_the_cosine_has_a_range(tmp_path, capsys, cosine):
    write(tmp_path / "run", vectors(3))
    flags = ("--not_near", str(tmp_path / "run"), "--not_near_cosine", cosine)
    assert filtered(tmp_path, "--dry_run", *flags) == 2
    assert "`--not_near_cosine` must be above 0 and below 1" in capsys.readouterr().err


def test_no_run_there_is_one_sentence(tmp_path, capsys):
    write(tmp_path / "run", vectors(3))
    assert filtered(tmp_path, "--dry_run", "--not_near", str(tmp_path / "absent")) == 2
    error = capsys.readouterr().err
    assert "absent" in error and "`--not_near`" in error and error.count("\n") == 1
