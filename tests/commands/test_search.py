import numpy as np
import pytest

import clip_core
from clip_core.inference.encoding import encode_pixels, encode_tokens
from making import encode_image, make_image
from pipelines import cli
from pipelines.output.scored_tables import open_tables
from pipelines.queries.nearest import nearest_rows
from scored_runs import write_scored

HOSTILE = "<script>alert(1)</script>\x1b[31m\nnext line"


def unit(values):
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    vectors = unit(np.random.default_rng(0).normal(size=(500, 8)))
    rows = [{"image_embedding": vector} for vector in vectors]
    root = write_scored(tmp_path_factory.mktemp("many"), [rows[:300], [], rows[300:]], dim=8)
    return open_tables(str(root)), vectors


@pytest.mark.parametrize("top_k", [1, 7, 499, 500, 900])
@pytest.mark.parametrize("batch_rows", [1, 64, 8192])
def test_nearest_are_those_of_a_full_sort(many, top_k, batch_rows, monkeypatch):
    tables, vectors = many
    monkeypatch.setattr(
        "pipelines.output.scored_tables.ScoredTables.batches.__defaults__",
        (batch_rows,),
        raising=True,
    )
    query = unit(np.arange(8))
    expected = np.argsort(-(vectors @ query))[:top_k]
    found = nearest_rows(tables, query, top_k)
    assert [row.source_row for row in found] == expected.tolist()
    np.testing.assert_allclose(
        [row.similarity for row in found], (vectors @ query)[expected], atol=1e-6
    )


@pytest.mark.parametrize("split", [1, 5, 9])
def test_ties_are_ordered_by_uid_wherever_files_begin(tmp_path, split):
    rows = [{"uid": f"row-{n}"} for n in (4, 1, 8, 0, 3, 9, 2, 7, 6, 5)]
    tables = open_tables(str(write_scored(tmp_path, [rows[:split], rows[split:]])))
    found = nearest_rows(tables, np.eye(4, dtype=np.float32)[0], 3)
    assert [row.uid for row in found] == ["row-0", "row-1", "row-2"]


def test_empty_table_has_no_nearest(tmp_path):
    tables = open_tables(str(write_scored(tmp_path, [[]])))
    assert nearest_rows(tables, np.eye(4, dtype=np.float32)[0], 3) == []


@pytest.fixture(scope="module")
def scored(tmp_path_factory, model_dir):
    """Images embedded by a small random model, which run.json names."""
    root = tmp_path_factory.mktemp("search")
    model = clip_core.load(str(model_dir))
    images = [make_image(70, 60, seed=n).rotate(70 * n) for n in range(5)]
    pixels = np.stack([model.preprocessing.to_pixels(image) for image in images])
    rows = []
    for number, vector in enumerate(encode_pixels(model.clip, pixels)):
        (root / f"{number}.png").write_bytes(encode_image(images[number]))
        place = {"source": str(root / "m.jsonl"), "url": f"{number}.png"}
        rows.append({"image_embedding": vector, "text": HOSTILE, **place})
    write_scored(
        root / "scored",
        [rows],
        fingerprint=model.fingerprint,
        record={"options": {"model": str(model_dir)}},
        dim=model.config.embed_dim,
    )
    return root


def run(scored, *flags):
    return cli.main(["search", "--input", str(scored / "scored"), "--trust_run", *flags])


def test_picture_finds_itself_and_the_model_is_that_of_the_run(scored, capsys):
    assert run(scored, "--image", str(scored / "3.png"), "--top_k", "2") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["similarity", "uid", "url", "text"]
    assert first.split()[:3] == ["1.0000", "row-3", "3.png"]
    assert second.split()[1] != "row-3"


def test_several_queries_are_answered_as_each_by_itself(scored, tmp_path, capsys):
    queries = [("--text", "a star"), ("--text", "a dog"), ("--image", str(scored / "3.png"))]
    alone = []
    for query in queries:
        assert run(scored, *query, "--top_k", "3") == 0
        alone.append(capsys.readouterr().out.splitlines()[1:])
    page = tmp_path / "g.html"
    flags = [word for query in queries for word in query]
    assert run(scored, *flags, "--top_k", "3", "--html", str(page)) == 0
    parts = capsys.readouterr().out.split("\n\n")[:3]
    assert [part.splitlines()[0] for part in parts] == [
        "query      a star",
        "query      a dog",
        f"query      {scored / '3.png'}",
    ]
    assert [part.splitlines()[2:] for part in parts] == alone
    assert page.read_text().count("data:image/jpeg;base64,") == 3 * 3 + 1


def test_captions_are_searched_if_asked(tmp_path, model_dir, capsys):
    model = clip_core.load(str(model_dir))
    texts = ["a star", "two dogs", "the sea"]
    vectors = encode_tokens(model.clip, model.tokenizer.tokenize(texts))
    rows = [{"text": t, "text_embedding": v} for t, v in zip(texts, vectors, strict=True)]
    rows = [row | {"image_embedding": vectors[0]} for row in rows]
    write_scored(tmp_path / "scored", [rows], fingerprint=model.fingerprint, dim=len(vectors[0]),
                 record={"options": {"model": str(model_dir)}})  # fmt: skip
    for number, text in enumerate(texts):
        assert run(tmp_path, "--text", text, "--among", "captions", "--top_k", "1") == 0
        [_, found] = capsys.readouterr().out.splitlines()
        assert found.split()[:2] == ["1.0000", f"row-{number}"]


def test_captions_cannot_steer_the_terminal(scored, capsys):
    assert run(scored, "--text", "a star") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and len(out.splitlines()) == 6


def test_gallery_shows_the_pictures_and_keeps_captions_text(scored, tmp_path, capsys):
    page = tmp_path / "g.html"
    assert run(scored, "--text", "<b>a star</b>", "--html", str(page)) == 0
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 5
    assert "<script" not in html and "&lt;script&gt;" in html and "&lt;b&gt;a star" in html
    assert str(page) in capsys.readouterr().out
    assert run(scored, "--image", str(scored / "0.png"), "--html", str(page)) == 0
    assert page.read_text().count("data:image/jpeg;base64,") == 6


@pytest.mark.parametrize("runner", [(), ("--runner", "FnApiRunner")])
def test_copies_are_left_out_and_others_fill_their_place(tmp_path, model_dir, capsys, runner):
    model = clip_core.load(str(model_dir))
    dim = model.config.embed_dim
    vectors = np.eye(dim, dtype=np.float32)[[0, 0, 1, 0, 2]]
    rows = [
        {"image_embedding": vector, "sha256": digest * 64, "uid": f"row-{n}"}
        for n, (vector, digest) in enumerate(zip(vectors, "aabcd", strict=True))
    ]
    record = {"options": {"model": str(model_dir)}}
    write_scored(
        tmp_path / "scored",
        [rows[:2], rows[2:]],
        fingerprint=model.fingerprint,
        record=record,
        dim=dim,
    )
    for kind, expected in (("exact", {0, 2, 3, 4}), ("near", {0, 2, 4})):
        assert run(tmp_path, "--text", "a", "--distinct", kind, "--top_k", "4", *runner) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        assert {line.split()[1] for line in lines} == {f"row-{n}" for n in expected}


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "expected `--text` or `--image`, got neither"),
        (("--text", " "), "expected words as `--text`"),
        (("--text", "a", "--top_k", "0"), "`--top_k` must be a positive int"),
        (("--text", "a", "--among", "captions", "--distinct", "near"), "tells images apart"),
        (("--text", "a", "--model", "tiny"), "expected the model that made the embeddings"),
        (("--image", "no/such.png"), "no/such.png"),
        (("--image", __file__), "not_an_image"),
        (("--text", "a", "--distinct", "all"), "invalid choice: 'all'"),
        (("--txt", "a"), "did you mean --text?"),
    ],
)
def test_wrong_usage_is_one_sentence(scored, capsys, flags, message):
    assert run(scored, *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_unfinished_run_asks_for_the_model(tmp_path, capsys):
    write_scored(tmp_path / "scored", [[{}]])
    assert run(tmp_path, "--text", "a") == 2
    assert "expected `--model`, as the run has not finished" in capsys.readouterr().err


def test_run_without_rows_is_told_from_no_run(tmp_path, capsys):
    (tmp_path / "scored").mkdir()
    assert run(tmp_path, "--text", "a") == 2
    assert "expected the output directory of `clip-beam embed`" in capsys.readouterr().err
    (tmp_path / "scored" / "run.json").write_text('{"options": {}}')
    assert run(tmp_path, "--text", "a") == 2
    assert "has no rows, so there is nothing to read" in capsys.readouterr().err


def test_model_of_the_run_that_is_gone_is_asked_for(tmp_path, capsys):
    write_scored(tmp_path / "scored", [[{}]], record={"options": {"model": "no/such"}})
    assert run(tmp_path, "--text", "a") == 2
    error = capsys.readouterr().err
    assert "(so run.json names the model; pass `--model` with where it is now)" in error
    assert run(tmp_path, "--text", "a", "--model", "no/such") == 2
    assert "run.json" not in capsys.readouterr().err
