"""One half of pairs: the same vectors, none of the other's work, a sentence where it lacks some."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import forked
from making import encode_image, make_image
from pipelines import cli
from pipelines.encoding import image_work
from pipelines.engine.slots import processes
from tars import make_tar


def image(number):
    return encode_image(make_image(40, 40, seed=number))


def call(*words, status=0):
    assert cli.main([str(word) for word in words]) == status


def counts(out):
    found = json.loads((out / "run.json").read_text())["counts"]
    return found["rows_read"], found["records"], found["embedded"], found["rejected"]


def table(folder):
    return ds.dataset(folder, ignore_prefixes=["."]).to_table()


def write_images(folder):
    """A tar as ImageNet is distributed; two images are equal, and one is damaged."""
    members = []
    for number, seed in enumerate([0, 1, 0, None]):
        data = b"<html>" if seed is None else image(seed)
        members += [(f"{number}.png", data), (f"{number}.cls", b"7")]
    (folder / "m.tar").write_bytes(make_tar(*members))
    return folder / "m.tar"


def write_texts(folder):
    captions = [["a star", "a red circle"], [], ["a blue square", None]]
    lines = [json.dumps({"id": f"i{n}", "caption": texts}) for n, texts in enumerate(captions)]
    (folder / "m.jsonl").write_text("\n".join(lines))
    return folder / "m.jsonl"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each half, in two processes and by two launchers."""
    folder = tmp_path_factory.mktemp("halves")
    for pairs, write in (("images", write_images), ("texts", write_texts)):
        embed = ["embed", "--manifest", write(folder), "--model", "tiny", "--pairs", pairs]
        out = folder / pairs
        if pairs == "images":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(processes, "subprocess", forked.as_subprocess())
                call(*embed, "--output", out, "--engine", "processes", "--slots", 2)
        else:
            for part in (1, 2):
                call(*embed, "--output", out, "--rows_per_unit", 2, "--part", f"{part}/2")
            call("finish", "--output", out)
    return folder


def test_vectors_are_those_of_pairs(tmp_path):
    rows = [{"url": f"{n}.png", "caption": ["a star", f"a cat {n}"], "n": n} for n in range(3)]
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image(number))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed = ["embed", "--manifest", tmp_path / "m.jsonl", "--keep_columns", "n,caption"]
    embed += ["--model", "a=tiny", "--model", "b=tiny"]
    found = {}
    for pairs in ("both", "images", "texts"):
        call(*embed, "--output", tmp_path / pairs, "--pairs", pairs)
        found[pairs] = table(tmp_path / pairs / "embeddings")
    firsts = found["both"].filter(pa.compute.equal(found["both"]["caption_index"], 0))
    for name, one, other in (
        ("b_image_embedding", found["images"], firsts),
        ("a_text_embedding", found["texts"], found["both"]),
    ):
        vectors = [np.stack(part[name].to_numpy()) for part in (one, other)]
        np.testing.assert_allclose(*vectors, atol=1e-5)
    assert found["images"]["caption"].to_pylist()[1] == '["a star", "a cat 1"]'
    where = ["filter", "--input", tmp_path / "images", "--output", tmp_path / "kept"]
    call(*where, "--where", "n > 0", "--dedup", "near", "--model_name", "b")


def test_nothing_of_the_other_half_is_done(tmp_path, monkeypatch):
    (tmp_path / "0.png").write_bytes(image(0))
    (tmp_path / "m.jsonl").write_text('{"url": "0.png", "caption": "a star"}\n')
    embed = ["embed", "--manifest", tmp_path / "m.jsonl", "--model", "tiny"]
    for name in ("fetch_image", "direct_place"):
        monkeypatch.setattr(image_work, name, lambda *_: pytest.fail("an image is fetched"))
    call(*embed, "--output", tmp_path / "texts", "--pairs", "texts", "--isolate_decoding")
    assert counts(tmp_path / "texts") == (1, 1, 1, 0)
    monkeypatch.undo()
    tokenizer = "clip_core.tokenizer.Tokenizer.tokenize_rows"
    monkeypatch.setattr(tokenizer, lambda *_: pytest.fail("a caption is tokenised"))
    monkeypatch.setattr("clip_core.model.Clip.encode_text", lambda *_: pytest.fail("or encoded"))
    call(*embed, "--output", tmp_path / "images", "--pairs", "images", "--isolate_decoding")
    assert counts(tmp_path / "images") == (1, 1, 1, 0)


def test_rejects_are_retried_with_their_half_alone(runs, tmp_path, capsys):
    again = ["embed", "--manifest", runs / "images" / "rejects", "--output", tmp_path / "out"]
    again += ["--model", "tiny", "--trust_run"]
    call(*again, status=2)
    assert "were read with `--pairs images`; pass that" in capsys.readouterr().err
    call(*again, "--pairs", "images", status=1)
    assert counts(tmp_path / "out") == (1, 1, 0, 1)
    embed = ["embed", "--manifest", runs / "m.tar", "--model", "tiny", "--output", runs / "images"]
    call(*embed, "--retry_rejects", status=2)
    assert "was begun with pairs 'images'" in capsys.readouterr().err
    call(*embed, "--retry_rejects", "--pairs", "images")
    assert counts(runs / "images") == (4, 4, 3, 1)


def test_tar_without_captions_is_labelled(runs, tmp_path):
    assert counts(runs / "images") == (4, 4, 3, 1)
    classify = ["classify", "--manifest", runs / "m.tar", "--output", tmp_path / "out"]
    call(*classify, "--labels", "a circle,a star", "--model", "tiny")
    assert table(tmp_path / "out" / "labels")["uid"].to_pylist() == ["0", "1", "2"]


def test_captions_of_a_list_are_counted_over_parts(runs):
    assert counts(runs / "texts") == (3, 5, 3, 2)
    assert table(runs / "texts" / "embeddings")["uid"].to_pylist() == ["i0", "i0#1", "i2"]


REFUSED = {
    "images": {
        "filter --preset datacomp-basic --dry_run": "'text'",
        "export --format laion --output o": "'text'",
    },
    "texts": {
        "filter --dedup near --dry_run": "'sha256'",
        "search --text a --model tiny --among captions --html h.html": "'sha256'",
        "export --format laion --output o": "'url'",
        "heads --head h.safetensors --output o": "'image_embedding'",
        "probe --truth_column uid --output p.safetensors": "'image_embedding'",
    },
}


@pytest.mark.parametrize(
    ("pairs", "words"), [(pairs, words) for pairs, found in REFUSED.items() for words in found]
)
def test_what_needs_the_other_half_is_refused_in_a_sentence(
    runs, capsys, pairs, words, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    command, *flags = words.split()
    call(command, "--input", runs / pairs, *flags, status=2)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and REFUSED[pairs][words] in told
    assert f"the run has {pairs} alone" in told
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--pairs texts --head h.pt", "`--pairs texts` has not; leave one out"),
        ("--pairs images --text_column t", "which `--pairs images` does not read; leave one out"),
        ("--pairs texts --image_column u", "which `--pairs texts` does not read; leave one out"),
        ("--text_column t", "no image column found"),
        ("--image_column u", "or embed images alone with `--pairs images`"),
    ],
)
def test_flags_that_make_no_sense_are_refused_at_the_start(tmp_path, capsys, flags, told):
    pq.write_table(pa.table({"u": ["0.png"], "t": ["a star"]}), tmp_path / "m.parquet")
    embed = ["embed", "--manifest", tmp_path / "m.parquet", "--output", tmp_path / "out"]
    call(*embed, "--model", "tiny", *flags.split(), status=2)
    assert told in capsys.readouterr().err and not (tmp_path / "out" / "embeddings").exists()
