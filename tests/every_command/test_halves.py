"""Images alone and captions alone go through all commands: what needs the other half says so."""

import json

import pyarrow.dataset as ds
import pytest

import forked
from making import encode_image, make_image
from pipelines import cli
from pipelines.encoding import image_work
from pipelines.engine.slots import processes

LATE, BROKEN = 4, 2
COUNT = 6
ABSENT = {
    "images": {"text", "similarity", "text_truncated", "text_embedding"},
    "texts": {
        *("url", "original_width", "original_height", "sha256"),
        *("similarity", "image_embedding"),
    },
}


def call(*words, status=0):
    assert cli.main([str(word) for word in words]) == status


def write_images(folder, numbers):
    for number in numbers:
        data = encode_image(make_image(40, 40, seed=number % 5))  # the last is the first again
        (folder / f"{number}.png").write_bytes(b"no image" if number == BROKEN else data)


def manifest_of(folder, pairs):
    """Rows of one half; of captions alone one is blank, and one is there twice."""
    folder.mkdir()
    rows = [{"id": f"i{number}", "url": f"{number}.png"} for number in range(COUNT)]
    if pairs == "texts":
        texts = ["a circle", "a star", " ", "a blue square", "a", "a circle"]
        rows = [{"id": f"i{number}", "text": text} for number, text in enumerate(texts)]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "m.jsonl"


@pytest.fixture(scope="module", params=["images", "texts"])
def half(request, tmp_path_factory):
    """A run of one half of pairs, its rejects retried; which half, and where it lies."""
    folder, pairs = tmp_path_factory.mktemp(request.param), request.param
    manifest = manifest_of(folder / "data", pairs)
    if pairs == "images":
        write_images(folder / "data", set(range(COUNT)) - {LATE})
    embed = ["embed", "--manifest", manifest, "--output", folder / "out", "--model", "tiny"]
    embed += ["--pairs", pairs, "--rows_per_unit", 4]
    call(*embed)
    if pairs == "images":
        assert counts(folder / "out") == (6, 4, 2)
        write_images(folder / "data", [LATE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", forked.as_subprocess())
        call(*embed, "--retry_rejects", "--engine", "processes", "--slots", 2)
    return pairs, folder


def counts(out):
    found = json.loads((out / "run.json").read_text())["counts"]
    return found["rows_read"], found["embedded"], found["rejected"]


def table(folder):
    return ds.dataset(folder, ignore_prefixes=["."]).to_table()


def uids(folder):
    return sorted(table(folder)["uid"].to_pylist())


def test_columns_of_the_half_that_is_not_there_are_absent(half):
    pairs, folder = half
    assert counts(folder / "out") == (6, 5, 1)
    embedded, rejected = (table(folder / "out" / name) for name in ("embeddings", "rejects"))
    assert not ABSENT[pairs] & {*embedded.column_names, *rejected.column_names}
    reason = "not_an_image" if pairs == "images" else "empty_text"
    assert rejected["reason"].to_pylist() == [reason]
    vectors = embedded["image_embedding" if pairs == "images" else "text_embedding"]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-5 for vector in vectors.to_pylist())


def test_half_that_is_not_asked_for_costs_nothing(tmp_path, monkeypatch):
    """Captions are beside the images, and are not read; nor is an image fetched for a caption."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_images(folder, [0, 1])
    lines = [{"url": "0.png", "text": None}, {"url": "gone.png", "text": "a star"}]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    embed = ["embed", "--manifest", folder / "m.jsonl", "--model", "tiny"]
    call(*embed, "--output", tmp_path / "images", "--pairs", "images")
    assert counts(tmp_path / "images") == (2, 1, 1)
    monkeypatch.setattr(image_work, "fetch_image", lambda *_: 1 / 0)
    call(*embed, "--output", tmp_path / "texts", "--pairs", "texts")
    assert counts(tmp_path / "texts") == (2, 1, 1)


def test_one_half_is_never_taken_by_accident(half, tmp_path, capsys):
    pairs, folder = half
    embed = ["embed", "--manifest", folder / "data" / "m.jsonl", "--output", tmp_path / "out"]
    status = cli.main([str(word) for word in [*embed, "--model", "tiny"]])
    assert status != 0 and f"--pairs {pairs}" in capsys.readouterr().err
    call(*embed, "--model", "tiny", "--pairs", pairs, "--scores_only", status=2)
    assert "gives no similarity" in capsys.readouterr().err


def test_filters_keep_what_they_can_judge(half, tmp_path, capsys):
    pairs, folder = half
    filtering = ["filter", "--input", folder / "out"]
    status = 2 * (pairs == "texts")
    call(*filtering, "--output", tmp_path / "one", "--dedup", "exact", status=status)
    if pairs == "texts":
        assert "the run has texts alone" in capsys.readouterr().err
    else:
        assert uids(tmp_path / "one" / "embeddings") == ["i0", "i1", "i3", "i4"]  # the first stays
        call(*filtering, "--output", tmp_path / "near", "--dedup", "near")
        assert "i0" in uids(tmp_path / "near" / "embeddings")
    call(*filtering, "--output", tmp_path / "where", "--where", "source_row < 4")
    assert uids(tmp_path / "where" / "embeddings") == ["i0", "i1", "i3"]
    again = ["filter", "--input", tmp_path / "where", "--output", tmp_path / "again"]
    call(*again, "--where", "source_row > 0")
    assert uids(tmp_path / "again" / "embeddings") == ["i1", "i3"]
    capsys.readouterr()
    for words in (["--top_fraction", "0.5"], ["--min_similarity", "0.1"]):
        call(*filtering, "--output", tmp_path / "no", *words, status=2)
        assert f"the run has {pairs} alone" in capsys.readouterr().err


def test_layouts_write_what_there_is_or_refuse(half, tmp_path, capsys):
    pairs, folder = half
    export = ["export", "--input", folder / "out", "--trust_run"]
    refused = {"datacomp"} if pairs == "images" else {"datacomp", "webdataset", "folder", "hf"}
    forms = ("datacomp", "clip_retrieval", "laion", "tables", "bigquery")
    for form in (*forms, "webdataset", "folder", "hf"):
        words = [*export, "--output", tmp_path / form, "--format", form]
        words += ["--datacomp_key", "b32"] if form == "datacomp" else []
        status = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        if form in refused:
            assert status == 2 and f"the run has {pairs} alone" in said.err, form
        elif form in ("webdataset", "folder", "hf"):
            assert status == 0 and "written    5" in said.out, form
    emb = {path.name for path in (tmp_path / "clip_retrieval").iterdir() if path.is_dir()}
    assert emb == {"metadata", "img_emb" if pairs == "images" else "text_emb"}
    assert not list((tmp_path / "folder").rglob("*.txt"))


def test_questions_are_answered_or_refused(half, tmp_path, capsys):
    pairs, folder = half
    among = "images" if pairs == "images" else "captions"
    search = ["search", "--input", folder / "out", "--model", "tiny", "--text", "a circle"]
    call(*search, "--among", among)
    assert len(capsys.readouterr().out.strip().splitlines()) == 1 + 5
    other = "captions" if pairs == "images" else "images"
    call(*search, "--among", other, status=2)
    assert f"the run has {pairs} alone" in capsys.readouterr().err
    classify = ["classify", "--input", folder / "out", "--output", tmp_path / "labels"]
    call(*classify, "--model", "tiny", "--labels", "a circle,a star", status=2 * (pairs == "texts"))
    if pairs == "images":
        assert uids(tmp_path / "labels" / "labels") == ["i0", "i1", "i3", "i4", "i5"]
    report = ["report", "--input", folder / "out", "--output", tmp_path / "r.html", "--trust_run"]
    call(*report, "--cut", 0.2, status=2)
    assert f"the run has {pairs} alone" in capsys.readouterr().err
    call(*report)
    page = (tmp_path / "r.html").read_text()
    assert ("Images" if pairs == "images" else "Captions") + "</h2>" in page
    assert page.count("<figure>") == 5 and "similarity</span>" not in page
    assert page.count("<img") == (5 if pairs == "images" else 0)
    call("status", "--output", folder / "out")
    call("finish", "--output", folder / "out")
    check = ["check", "--manifest", folder / "data" / "m.jsonl", "--output", tmp_path / "new"]
    capsys.readouterr()
    call(*check, "--model", "tiny", "--pairs", pairs)
    assert "5 embedded, 1 rejected" in capsys.readouterr().out
