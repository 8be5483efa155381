import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clip_core
import forked
from bench.quality import embed_images
from making import ROOT
from pipelines import cli
from pipelines.samples.rows import SampleConfig, make_row
from pipelines.samples.scenes import COLOURS, SHAPES
from scored_runs import write_scored

ROWS = 60


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Images of one object each, embedded by the bundled model; colour kept, shape in a file."""
    root = tmp_path_factory.mktemp("classify")
    model = clip_core.load("tiny")
    config = SampleConfig(ROWS, 5, one_object=True)
    scenes = [make_row(config, number) for number in range(ROWS)]
    images = embed_images(model, scenes)
    rows = [
        {"uid": s.uid, "colour": s.truth.colour, "image_embedding": image, "text": s.text}
        for s, image in zip(scenes, images, strict=True)
    ]
    truth = [{"uid": s.uid, "shape": s.truth.shape} for s in scenes]
    (root / "truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    write_scored(
        root / "scored",
        [rows[:40], rows[40:], []],
        kept=[pa.field("colour", pa.string())],
        fingerprint=model.fingerprint,
        record={"options": {"model": "tiny"}},
        dim=model.config.embed_dim,
    )
    return root


def run(scored, output, *flags):
    argv = ["classify", "--input", str(scored / "scored"), "--output", str(output), *flags]
    return cli.main(argv)


def test_manifest_is_embedded_first_and_then_labelled(tmp_path, capsys):
    sample = tmp_path / "sample"
    argv = ["--output", str(sample), "--rows", "40", "--seed", "3", "--one_object"]
    assert cli.main(["sample", *argv]) == 0
    flags = [
        "--manifest",
        str(sample),
        "--output",
        str(tmp_path / "out"),
        "--labels",
        ",".join(COLOURS),
    ]
    truth = ["--truth", str(sample / "_truth.jsonl"), "--truth_column", "colour"]
    embed_flags = ["--rows_per_unit", "30", "--batch_size", "8"]
    assert cli.main(["classify", *flags, *truth, "--model", "tiny", *embed_flags]) == 0
    said = capsys.readouterr().out
    assert "embedded   40" in said and "top-1      1.000" in said
    assert len(read(tmp_path / "out")) == 40
    assert len(list((tmp_path / "out" / "embedded" / "embeddings").iterdir())) == 2
    other = [*embed_flags, "--image_policy", "rgb_first", "--decode", "fast"]
    assert cli.main(["classify", *flags, "--model", "tiny", *other]) == 2
    assert "labels is there already" in capsys.readouterr().err
    assert cli.main(["classify", *flags, "--model", "tiny", *other, "--overwrite"]) == 0


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--labels", "a,b"), "expected `--model` with `--manifest`, got none"),
        (("--labels", "a,b", "--model", "tiny", "--top_k", "0"), "`--top_k` must be a positive"),
        (("--labels", "a", "--model", "tiny", "--batch_sise", "4"), "did you mean --batch_size?"),
        (("--labels", "a", "--model", "x=tiny"), "expected one `--model` without a name, got 'x="),
        (
            ("--labels", "a", "--model", "tiny", "--model", "b"),
            "expected `--model` once, got 'tiny' and 'b'",
        ),
        (("--labels", "a", "--model", "tiny", "--model_name", "b"), "leave out `--model_name`"),
        (("--labels", "a", "--model", "tiny", "--scores_only"), "leave out `--scores_only`"),
        (("--labels", "a", "--model", "tiny", "--truth_column", "kind"), "`--keep_columns`; name"),
        (
            ("--labels", "a", "--model", "tiny", "--truth_column", "kind", "--truth", "none.csv"),
            "none.csv",
        ),
    ],
)
def test_manifest_is_not_embedded_for_nothing(tmp_path, capsys, flags, told):
    argv = ["classify", "--manifest", "m.csv", "--output", str(tmp_path / "out"), *flags]
    status = cli.main(argv)
    assert status == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def read(output):
    files = sorted((output / "labels").iterdir())
    return pa.concat_tables([pq.read_table(file) for file in files])


def test_kept_column_is_the_truth_and_colours_are_named(scored, tmp_path, capsys):
    flags = ("--labels", ",".join(COLOURS), "--truth_column", "colour")
    assert run(scored, tmp_path, *flags) == 0
    assert "top-1      1.000" in capsys.readouterr().out
    record = json.loads((tmp_path / "accuracy.json").read_text())
    assert record["top_1"] == 1.0 and record["rows"] == ROWS


def test_truth_of_a_file_is_joined_by_uid_and_an_ensemble_is_no_worse(scored, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(SHAPES) + "\n\n")
    truth = ("--truth", str(scored / "truth.jsonl"), "--truth_column", "shape")
    flags = ("--labels", str(tmp_path / "labels.txt"), *truth)
    found = {}
    for templates in ("none", "simple"):
        assert run(scored, tmp_path / templates, *flags, "--templates", templates) == 0
        found[templates] = json.loads((tmp_path / templates / "accuracy.json").read_text())
    assert found["simple"]["top_1"] >= found["none"]["top_1"] > 0.9
    assert found["simple"]["top_1"] == 1.0


def test_rows_come_back_file_by_file_with_descending_probabilities(scored, tmp_path):
    assert run(scored, tmp_path, "--labels", "red,green,blue", "--top_k", "2") == 0
    names = [path.name for path in sorted((tmp_path / "labels").iterdir())]
    assert names == ["unit-0.parquet", "unit-1.parquet", "unit-2.parquet"]
    table = read(tmp_path)
    expected = pq.read_table(scored / "scored" / "embeddings")
    assert table["uid"].to_pylist() == expected["uid"].to_pylist()
    assert table["source_row"].to_pylist() == expected["source_row"].to_pylist()
    for labels, chances in zip(
        table["labels"].to_pylist(), table["probabilities"].to_pylist(), strict=True
    ):
        assert len(labels) == len(set(labels)) == 2
        assert 1.0001 > sum(chances) >= chances[0] >= chances[1] >= 0
    metadata = pq.read_schema(tmp_path / "labels" / "unit-0.parquet").metadata
    assert json.loads(metadata[b"clip_beam.labels"]) == ["red", "green", "blue"]
    assert b"checkpoint_sha256" in metadata[b"clip_beam.fingerprint"]


def test_probabilities_of_all_labels_sum_to_one(scored, tmp_path):
    assert run(scored, tmp_path, "--labels", "red,green,blue", "--top_k", "9") == 0
    for chances in read(tmp_path)["probabilities"].to_pylist():
        assert sum(chances) == pytest.approx(1, abs=1e-5)


def test_single_label_is_certain(scored, tmp_path):
    assert run(scored, tmp_path, "--labels", "red") == 0
    assert read(tmp_path)["probabilities"].to_pylist() == [[1.0]] * ROWS


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_confusion_is_drawn_whatever_the_labels_say(scored, tmp_path, suffix, magic):
    plot = tmp_path / f"c.{suffix}"
    flags = ("--labels", r"$\bad{,<b>," + ",".join(COLOURS), "--truth_column", "colour")
    assert run(scored, tmp_path, *flags, "--confusion_plot", str(plot)) == 0
    assert plot.read_bytes().startswith(magic)


def test_other_model_is_refused_with_the_difference(scored, tmp_path, model_dir, capsys):
    assert run(scored, tmp_path, "--labels", "a,b", "--model", str(model_dir)) == 2
    error = capsys.readouterr().err
    assert "expected the model that made the embeddings, with checkpoint_sha256" in error
    assert not (tmp_path / "labels").exists()


def test_labels_that_are_there_are_kept_unless_overwritten(scored, tmp_path, capsys):
    assert run(scored, tmp_path, "--labels", "a,b") == 0
    assert run(scored, tmp_path, "--labels", "c,d") == 2
    assert "is there already; pass `--overwrite`" in capsys.readouterr().err
    assert run(scored, tmp_path, "--labels", "c,d", "--overwrite") == 0
    assert set(read(tmp_path)["labels"].to_pylist()[0]) == {"c", "d"}


def test_labels_are_removed_after_the_last_check_and_with_their_accuracy(scored, tmp_path, capsys):
    truth = ("--truth_column", "colour")
    assert run(scored, tmp_path, "--labels", ",".join(COLOURS), *truth) == 0
    before = read(tmp_path)
    assert run(scored, tmp_path, "--labels", "a", "--overwrite", "--model", "tinny") == 2
    assert read(tmp_path).equals(before)
    assert run(scored, tmp_path, "--labels", "a", "--overwrite") == 0
    assert not (tmp_path / "accuracy.json").exists()


def test_truth_may_be_numbers_of_labels(scored, tmp_path, capsys):
    numbers = {shape: number for number, shape in enumerate(SHAPES)}
    lines = [json.loads(line) for line in (scored / "truth.jsonl").read_text().splitlines()]
    rows = [{"uid": line["uid"], "shape": numbers[line["shape"]]} for line in lines]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "l.json").write_text(json.dumps(list(SHAPES), indent=1))
    truth = ("--truth", str(tmp_path / "t.jsonl"), "--truth_column", "shape")
    assert run(scored, tmp_path / "out", "--labels", str(tmp_path / "l.json"), *truth) == 0
    said = capsys.readouterr().out
    assert "top-1      1.000" in said and f"numbered   {ROWS} rows" in said


def test_labels_and_templates_gather(scored, tmp_path, capsys):
    flags = ("--labels", "red,green", "--labels", "blue")
    templates = ("--templates", "a {}, kind of", "--templates", "none")
    assert run(scored, tmp_path, *flags, *templates) == 0
    assert "labels     3, by 2 prompts each" in capsys.readouterr().out


def test_many_labels_make_batches_of_fewer_rows(scored, tmp_path, monkeypatch):
    flags = ("--labels", "red,green,blue")
    assert run(scored, tmp_path / "whole", *flags) == 0
    monkeypatch.setattr("pipelines.classify.BATCH_LOGITS", 8)
    assert run(scored, tmp_path / "parts", *flags) == 0
    parts, whole = (read(tmp_path / name) for name in ("parts", "whole"))
    assert parts.drop(["probabilities"]).equals(whole.drop(["probabilities"]))
    found, expected = (np.stack(table["probabilities"].to_pylist()) for table in (parts, whole))
    # How a library adds up the products of a matrix depends on its size.
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_label_may_hold_a_slash(scored, tmp_path):
    assert run(scored, tmp_path, "--labels", "t-shirt/top,dress", "--device", "auto") == 0
    assert set(read(tmp_path)["labels"].to_pylist()[0]) == {"t-shirt/top", "dress"}


def test_truth_that_fits_no_label_fails(scored, tmp_path, capsys):
    assert run(scored, tmp_path, "--labels", "Red,Green", "--truth_column", "colour") == 1
    assert "no row has one of the labels in 'colour'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "required: --labels"),
        (("--labels", ","), "at least one label"),
        (("--labels", "a,a"), "'a' more than once"),
        (("--labels", "Crane,red,crane"), "got 'Crane' and 'crane', which are one"),
        (
            (
                *("--labels", ",".join(map(str, range(1001))), "--truth_column", "colour"),
                *("--confusion_plot", "x.png"),
            ),
            "at most 1000 classes, got 1001 labels",
        ),
        (("--labels", "no/such.txt"), "there is no file 'no/such.txt'"),
        (("--labels", "a,b", "--templates", "sample"), "got 'sample'"),
        (("--labels", "a,b", "--top_k", "0"), "`--top_k` must be a positive int"),
        (("--labels", "a,b", "--truth", "t.csv"), "expected `--truth_column`"),
        (("--labels", "a,b", "--truth_column", "kind"), "has no column 'kind'"),
        (("--labels", "a", "--truth_column", "colour", "--confusion_plot", "x.gif"), "must end in"),
        (("--labels", "a,b", "--top_kk", "3"), "did you mean --top_k?"),
        (("--labels", "a,b", "--model", "tinny"), "did you mean 'tiny'?"),
    ],
)
def test_wrong_usage_is_one_sentence(scored, tmp_path, capsys, flags, message):
    assert run(scored, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_scores_without_embeddings_are_refused_with_the_remedy(tmp_path, capsys):
    write_scored(tmp_path / "scored", [[{}]])
    path = tmp_path / "scored" / "embeddings" / "unit-0.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["image_embedding", "text_embedding"]), path)
    assert run(tmp_path, tmp_path / "out", "--labels", "a,b") == 2
    assert "embed again without `scores_only`" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_memory_does_not_grow_with_the_square_of_the_labels(scored, tmp_path):
    """10,000 labels squared would take 100 MB even at a byte each."""
    code = (
        "import re, sys; from pathlib import Path; from pipelines import cli\n"
        "for count in (3, 10_000):\n"
        "    labels = 'red,blue,' + ','.join(f'label {n}' for n in range(count))\n"
        "    flags = ['--labels', labels, '--output', f'{sys.argv[1]}/{count}', *sys.argv[2:]]\n"
        "    assert cli.main(['classify', *flags]) == 0\n"
        "    peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "    print(peak, file=sys.stderr)"
    )
    flags = ["--input", scored / "scored", "--templates", "none", "--truth_column", "colour"]
    command = [sys.executable, "-c", code, tmp_path, *flags]
    done = forked.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = (int(line) << 10 for line in done.stderr.split()[-2:])
    assert many - few < 100e6
