"""A probe finds what it was hidden: classes and numbers drawn from embeddings."""

import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from clip_core.training.linear_probe import best_c, fit_logistic, fit_ridge
from pipelines import cli
from pipelines.queries.probing import _part
from scored_runs import write_scored

DIM, ROWS, CLASSES = 16, 600, 4
KEPT = [pa.field("kind", pa.string()), pa.field("level", pa.float64())]


def drawn(rows=ROWS, seed=0):
    """Vectors around four centres, and a number that is linear in them but for some noise."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(CLASSES, DIM))
    classes = random.integers(CLASSES, size=rows)
    vectors = centres[classes] + random.normal(size=(rows, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    level = vectors @ np.linspace(-3, 3, DIM) + 2 + 0.05 * random.normal(size=rows)
    return vectors, classes, level


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("probe")
    vectors, classes, level = drawn()
    rows = [
        {"uid": f"u{n}", "sha256": f"{n // 2:064x}", "image_embedding": vectors[n],
         "kind": f"kind {classes[n]}" if n % 10 else None, "level": float(level[n])}
        for n in range(ROWS)
    ]  # fmt: skip
    fingerprint = {"architecture": "ViT-B/32", "checkpoint_sha256": "c0ffee"}
    write_scored(
        root / "run", [rows[:200], rows[200:]], dim=DIM, kept=KEPT, fingerprint=fingerprint
    )
    return root


def probe(root, output, *flags):
    argv = ["probe", "--input", str(root / "run"), "--output", str(output), *flags]
    return cli.main(argv)


def told_by(path):
    data = path.read_bytes()
    [length] = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["clip_beam.head"])


def test_classes_are_learned_and_the_head_is_taken_by_heads(run, tmp_path, capsys):
    path = tmp_path / "kind.safetensors"
    assert probe(run, path, "--truth_column", "kind") == 0
    said = capsys.readouterr().out
    assert "rows       540 with a label, 60 without" in said and "classes    4" in said
    told = told_by(path)
    assert told["labels"] == [f"kind {n}" for n in range(CLASSES)] and told["end"] == "softmax"
    assert told["model"] == {"architecture": "ViT-B/32", "checkpoint_sha256": "c0ffee"}
    trained = told["trained_on"]
    assert sum(trained["rows"].values()) == 540 and trained["truth_column"] == "kind"
    assert f"{trained['accuracy']:.4f} on the rows held out" in said and trained["accuracy"] > 0.8

    argv = ["heads", "--input", str(run / "run"), "--output", str(tmp_path / "out")]
    assert cli.main([*argv, "--head", f"told={path}"]) == 0
    table = ds.dataset(tmp_path / "out" / "embeddings").to_table()
    held = [n for n in range(ROWS) if n % 10 and _part(f"{n // 2:064x}", 0) == 2]
    found = [table["told"][n].as_py() == table["kind"][n].as_py() for n in held]
    assert np.mean(found) == pytest.approx(trained["accuracy"])
    assert ds.dataset(tmp_path / "out" / "embeddings").schema.field("told_probability")


def test_numbers_are_learned(run, tmp_path, capsys):
    path = tmp_path / "level.safetensors"
    assert probe(run, path, "--truth_column", "level", "--kind", "ridge") == 0
    assert told_by(path)["trained_on"]["r2"] > 0.99
    assert probe(run, path, "--truth_column", "level", "--kind", "ridge") == 2
    assert "is there already; pass `--overwrite`" in capsys.readouterr().err


def test_labels_may_lie_in_a_file_of_their_own(run, tmp_path):
    truth = tmp_path / "truth.csv"
    _, classes, _ = drawn()
    truth.write_text("uid,k\n" + "".join(f"u{n},c{classes[n]}\n" for n in range(0, ROWS, 2)))
    flags = ("--truth_column", "k", "--truth", str(truth))
    assert probe(run, tmp_path / "a.safetensors", *flags) == 0
    assert sum(told_by(tmp_path / "a.safetensors")["trained_on"]["rows"].values()) == ROWS / 2


@pytest.mark.parametrize(
    "flags, status, told",
    [
        (("--truth_column", "knd"), 2, "has no column 'knd'"),
        (("--truth_column", "source"), 1, "expected labels of 2 to"),
        (("--truth_column", "text", "--kind", "ridge"), 1, "expected numbers for `--kind ridge`"),
        (("--truth_column", "kind", "--model_name", "x"), 2, "the run has one, unnamed"),
    ],
)
def test_labels_that_teach_nothing_are_refused(run, tmp_path, capsys, flags, status, told):
    assert probe(run, tmp_path / "a.safetensors", *flags) == status
    assert told in capsys.readouterr().err and not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("c", [1e-4, 0.1, 100.0])
def test_logistic_regression_is_where_the_slope_is_zero(c):
    vectors, classes, _ = drawn(300)
    weight, bias = fit_logistic(vectors, classes, CLASSES, c)
    logits = vectors @ weight.T.astype(np.float64) + bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    slope = (shares - np.eye(CLASSES)[classes]).T @ vectors / 300 + weight / (c * 300)
    assert np.abs(slope).max() < 1e-5
    assert np.abs((shares - np.eye(CLASSES)[classes]).mean(axis=0)).max() < 1e-5


@pytest.mark.parametrize("c", [1e-3, 1.0, 1e3])
def test_ridge_regression_is_where_the_slope_is_zero(c):
    vectors, _, level = drawn(300)
    weight, bias = fit_ridge(vectors, level, c)
    rest = vectors @ weight[0].astype(np.float64) + bias[0] - level
    assert np.abs(vectors.T @ rest + weight[0] / c).max() < 1e-3 and abs(rest.mean()) < 1e-5


@pytest.mark.parametrize("peak", [-48, -13, 0, 5, 31, 48])
def test_search_finds_a_single_peak_to_an_eighth_of_a_decade(peak):
    tried = []

    def score(c):
        tried.append(c)
        return -abs(np.log10(c) * 8 - peak)

    assert np.log10(best_c(score)) * 8 == pytest.approx(peak)
    assert len(tried) <= 15


def test_rows_of_one_image_are_on_one_side_of_the_split():
    parts = np.array([_part(f"{n:064x}", seed=3) for n in range(20_000)])
    shares = np.bincount(parts, minlength=3) / len(parts)
    assert np.abs(shares - [0.64, 0.16, 0.2]).max() < 0.01
    assert _part("a", 0) == _part("a", 0)
