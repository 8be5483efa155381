"""Images with several captions go through all commands: one record a caption, each image once."""

import json
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from clip_core.inference import encoding
from making import encode_image, make_image
from pipelines import cli
from pipelines.encoding import handler, image_work
from tars import make_tar

LATE = 4  # the image of this row is there only when rejects are retried
CAPTIONS = [
    ["a red circle", "a circle"],
    ["a star", None, "a blue square"],
    [],
    ["a plain caption"],
    ["a", "b"],
    ["same", "same"],
]
REJECTED = {(1, 1): "empty_text", (2, 0): "empty_text"}
KEYS = {(n, index) for n, texts in enumerate(CAPTIONS) for index in range(max(len(texts), 1))}


def image(number):
    return encode_image(make_image(40, 40, seed=number))


def write_images(folder, numbers):
    for number in numbers:
        (folder / f"{number}.png").write_bytes(image(number))


def write_jsonl(folder):
    rows = [
        {"id": f"i{n}", "url": f"{n}.png", "caption": texts} for n, texts in enumerate(CAPTIONS)
    ]
    rows[3]["caption"] = rows[3]["caption"][0]  # text among lists
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "m.jsonl"


def write_parquet(kind):
    def write(folder):
        count = range(len(CAPTIONS))
        table = {"id": [f"i{n}" for n in count], "url": [f"{n}.png" for n in count]}
        table["captions"] = pa.array(CAPTIONS, kind)
        pq.write_table(pa.table(table), folder / "m.parquet", row_group_size=4)
        return folder / "m.parquet"

    return write


def write_tar(folder):
    members = []
    for number, texts in enumerate(CAPTIONS):
        data = b"" if number == LATE else image(number)
        members += [(f"i{number}.png", data), (f"i{number}.json", json.dumps({"caption": texts}))]
    pairs = [(name, data if isinstance(data, bytes) else data.encode()) for name, data in members]
    (folder / "m.tar").write_bytes(make_tar(*pairs))
    return folder / "m.tar"


def write_folder(folder):
    for number, texts in enumerate(CAPTIONS):
        (folder / f"i{number}.json").write_text(json.dumps({"captions": texts}))
        (folder / f"i{number}.png").write_bytes(b"" if number == LATE else image(number))
    return folder


FORMS = {
    "jsonl": write_jsonl,
    "parquet": write_parquet(pa.large_list(pa.large_string())),
    "tar": write_tar,
    "folder": write_folder,
}


def call(*words, status=0):
    assert cli.main([str(word) for word in words]) == status


def counts(out):
    found = json.loads((out / "run.json").read_text())["counts"]
    assert found["records"] == found["embedded"] + found["rejected"]
    return found["rows_read"], found["records"], found["embedded"], found["rejected"]


def rows(folder):
    return ds.dataset(folder, ignore_prefixes=["."]).to_table().to_pylist()


def keys(folder):
    found = [(row["source_row"], row["caption_index"]) for row in rows(folder)]
    assert len(set(found)) == len(found)
    return set(found)


@pytest.fixture
def work(monkeypatch):
    """Counts the images that are fetched, decoded and encoded."""
    counted = {"fetched": 0, "decoded": 0, "encoded": 0}
    fetch, decode, encode = image_work.fetch_image, image_work.decode_image, encoding.encode_pairs

    def fetched(*args):
        counted["fetched"] += 1
        return fetch(*args)

    def decoded(*args):
        counted["decoded"] += 1
        return decode(*args)

    def encoded(clip, images, tokens):
        counted["encoded"] += sum(map(len, images))
        return encode(clip, images, tokens)

    monkeypatch.setattr(image_work, "fetch_image", fetched)
    monkeypatch.setattr(image_work, "decode_image", decoded)
    monkeypatch.setattr(handler, "encode_pairs", encoded)
    return counted


@pytest.mark.parametrize("form", FORMS)
def test_each_caption_is_a_record_and_each_image_is_worked_on_once(tmp_path, form, work):
    (tmp_path / "data").mkdir()
    manifest = FORMS[form](tmp_path / "data")
    if form not in ("tar", "folder"):
        write_images(tmp_path / "data", set(range(6)) - {LATE})
    out = tmp_path / "out"
    # A batch of one row: none is cut in the middle of an image.
    embed = ["embed", "--manifest", manifest, "--output", out, "--model", "tiny"]
    call(*embed, "--batch_size", 1, *(() if form == "folder" else ("--rows_per_unit", 4)))
    assert counts(out) == (6, 11, 7, 4)
    assert work["encoded"] == 4 and work["fetched"] == 5
    late = {(LATE, 0), (LATE, 1)}
    assert keys(out / "embeddings") == KEYS - set(REJECTED) - late
    reasons = {(r["source_row"], r["caption_index"]): r["reason"] for r in rows(out / "rejects")}
    assert {key: reasons[key] for key in REJECTED} == REJECTED and set(reasons) == {
        *REJECTED,
        *late,
    }
    for row in [*rows(out / "embeddings"), *rows(out / "rejects")]:
        index = row["caption_index"]
        assert row["uid"] == f"i{row['source_row']}" + (f"#{index}" if index else "")
    by_key = {(r["source_row"], r["caption_index"]): r for r in rows(out / "embeddings")}
    assert by_key[1, 2]["text"] == "a blue square"
    assert by_key[1, 0]["image_embedding"] == by_key[1, 2]["image_embedding"]
    assert by_key[1, 0]["text_embedding"] != by_key[1, 2]["text_embedding"]
    assert by_key[5, 0]["similarity"] == by_key[5, 1]["similarity"]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A run whose missing image has come, and that has been retried."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").mkdir()
    manifest, out = write_jsonl(folder / "data"), folder / "out"
    write_images(folder / "data", set(range(6)) - {LATE})
    shutil.copy(folder / "data" / "0.png", folder / "data" / "3.png")  # a copy with other captions
    embed = ["embed", "--manifest", manifest, "--output", out, "--model", "tiny"]
    call(*embed, "--rows_per_unit", 4)
    assert counts(out) == (6, 11, 7, 4)
    write_images(folder / "data", [LATE])
    call(*embed, "--rows_per_unit", 4, "--retry_rejects")
    return folder


def test_retry_puts_captions_where_they_belong(embedded, tmp_path, capsys):
    out = embedded / "out"
    assert counts(out) == (6, 11, 9, 2)
    assert keys(out / "embeddings") == KEYS - set(REJECTED) and keys(out / "rejects") == set(
        REJECTED
    )
    found = [(row["source_row"], row["caption_index"]) for row in rows(out / "embeddings")]
    assert found == sorted(found)
    # Of a row only the captions that were rejected are tried again.
    again = ["embed", "--manifest", out / "rejects", "--output", tmp_path / "again"]
    call(*again, "--model", "tiny", "--trust_run", status=1)
    assert keys(tmp_path / "again" / "rejects") == set(REJECTED)
    assert counts(tmp_path / "again") == (2, 2, 0, 2)
    capsys.readouterr()
    call("finish", "--output", out)
    assert "rows read  6\nrecords    11, one for each caption\n" in capsys.readouterr().out
    call("status", "--output", out)
    assert "records    11" in capsys.readouterr().out


def test_another_number_of_captions_does_the_unit_anew(embedded, tmp_path):
    shutil.copytree(embedded / "data", tmp_path / "data")
    manifest, out = tmp_path / "data" / "m.jsonl", tmp_path / "out"
    embed = ["embed", "--manifest", manifest, "--output", out, "--model", "tiny"]
    call(*embed)
    text, three = manifest.read_text(), '["a star", null, "a blue square"]'
    manifest.write_text(text.replace(three, '["a star", "b", "c", "d"]'.ljust(len(three))))
    assert len(manifest.read_text()) == len(text)
    call(*embed, "--retry_rejects")
    assert counts(out) == (6, 12, 11, 1)
    assert keys(out / "rejects") == {(2, 0)}


def test_captions_of_an_image_stay_or_go_together(embedded, tmp_path):
    found = {
        (r["source_row"], r["caption_index"]): r for r in rows(embedded / "out" / "embeddings")
    }
    best = {n: max(r["similarity"] for key, r in found.items() if key[0] == n) for n in (0, 3)}
    better, worse = (0, 3) if best[0] >= best[3] else (3, 0)
    for kind in ("exact", "near"):
        kept = tmp_path / kind
        call("filter", "--input", embedded / "out", "--output", kept, "--dedup", kind)
        left = keys(kept / "embeddings")
        assert {key for key in KEYS if key[0] == better} <= left
        assert worse not in {row for row, _ in left}
        if kind == "exact":
            assert left == KEYS - set(REJECTED) - {key for key in KEYS if key[0] == worse}
            assert counts(kept)[0] == 4  # rows that are left of the manifest
    where = ("--where", "caption_index > 0")
    call("filter", "--input", tmp_path / "exact", "--output", tmp_path / "second", *where)
    call(
        "filter", "--input", tmp_path / "second", "--output", tmp_path / "third", "--dedup", "exact"
    )
    assert keys(tmp_path / "third" / "embeddings") == {
        k for k in keys(tmp_path / "exact" / "embeddings") if k[1]
    }
    again = ["embed", "--manifest", tmp_path / "second" / "embeddings", "--trust_run"]
    call(*again, "--output", tmp_path / "again", "--model", "tiny")
    assert keys(tmp_path / "again" / "embeddings") == keys(tmp_path / "second" / "embeddings")


@pytest.mark.parametrize("form", ["datacomp", "clip_retrieval", "laion", "tables", "bigquery"])
def test_layouts_have_a_row_for_each_caption(embedded, tmp_path, form):
    flags = ("--datacomp_key", "b32") if form == "datacomp" else ()
    call(
        "export", "--input", embedded / "out", "--output", tmp_path / "o", "--format", form, *flags
    )
    tables = [
        ds.dataset(tmp_path / "o" / name).to_table()
        for name in ("metadata", "scores", "vectors")
        if (tmp_path / "o" / name).exists() and form != "datacomp"
    ]
    assert all(len(table) == 9 for table in tables)
    if form == "tables":
        scores, vectors = tables
        key = ["source", "source_row", "caption_index"]
        assert len(scores.join(vectors.select([*key, "uid"]), key, right_suffix="_v")) == 9
    if form == "datacomp":
        assert len(np.load(tmp_path / "o" / "subset.npy")) == 9


@pytest.mark.parametrize("form", ["webdataset", "folder", "hf"])
def test_shards_have_a_sample_for_each_caption(embedded, tmp_path, form, capsys):
    export = ["export", "--input", embedded / "out", "--output", tmp_path / "o", "--format", form]
    call(*export, "--rows_per_shard", 5, "--trust_run")
    assert "rows       9\nwritten    9 in 2 shards" in capsys.readouterr().out
    expected = {(row["uid"], row["text"]) for row in rows(embedded / "out" / "embeddings")}
    if form == "hf":
        found = {(row["uid"], row["text"]) for row in rows(tmp_path / "o" / "data")}
    elif form == "folder":
        found = {
            (json.loads(path.read_text())["uid"], path.with_suffix(".txt").read_text())
            for path in (tmp_path / "o").rglob("*.json")
            if path.with_suffix(".txt").exists()
        }
    else:
        found = set()
        for path in sorted((tmp_path / "o" / "shards").glob("*.tar")):
            with tarfile.open(path) as tar:
                read = {m.name: tar.extractfile(m).read() for m in tar}
            about = [name for name in read if name.endswith(".json")]
            found |= {
                (json.loads(read[name])["uid"], read[name[:-4] + "txt"].decode()) for name in about
            }
    assert found == expected


def test_questions_are_answered_for_each_caption(embedded, tmp_path, capsys):
    out = embedded / "out"
    truth = tmp_path / "truth.csv"
    truth.write_text("uid,kind\ni0,a circle\ni1,a star\n")
    classify = ["classify", "--input", out, "--output", tmp_path / "labels", "--model", "tiny"]
    classify += ["--labels", "a circle,a star", "--truth", truth, "--truth_column", "kind"]
    call(*classify)
    assert keys(tmp_path / "labels" / "labels") == KEYS - set(REJECTED)
    assert "unknown    5 rows" in capsys.readouterr().out  # i0 and i1 count for their captions
    call("search", "--input", out, "--text", "a circle", "--model", "tiny", "--distinct", "exact")
    assert len(capsys.readouterr().out.strip().splitlines()) == 1 + 4  # images, of which one twice
    call("search", "--input", out, "--text", "same", "--model", "tiny", "--among", "captions")
    assert "i5#1" in capsys.readouterr().out
    call("report", "--input", out, "--output", tmp_path / "r.html", "--trust_run")
    assert "records read" in (tmp_path / "r.html").read_text()
    assert "base64," in (tmp_path / "r.html").read_text()
    check = ["check", "--manifest", embedded / "data" / "m.jsonl", "--output", tmp_path / "new"]
    call(*check, "--model", "tiny")
    assert "6 rows with 11 captions: 9 embedded, 2 rejected" in capsys.readouterr().out


REFUSED = {
    "a list of structs": pa.array([[{"raw": "a"}]]),
    "a struct": pa.array([{"raw": "a"}]),
    "lists of lists": pa.array([[["a"]]]),
    "numbers": pa.array([[1]]),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("named", [True, False])
def test_column_that_holds_no_captions_is_refused_before_work(tmp_path, capsys, what, named):
    pq.write_table(pa.table({"url": ["0.png"], "captions": REFUSED[what]}), tmp_path / "m.parquet")
    embed = ["embed", "--manifest", tmp_path, "--output", tmp_path / "out", "--model", "tiny"]
    call(*embed, *(("--text_column", "captions") if named else ()), status=2)
    assert "which is no caption; name another with `--text_column`" in capsys.readouterr().err


def test_what_is_wrong_with_one_caption_is_no_fault_of_the_others(tmp_path):
    long, many = "x" * (1 << 20) + "x", [f"caption {n}" for n in range(1001)]
    texts = [["a", long, "b"], ["a", " ", 7, "half \ud800", ["b"], "c"], many, many[:1000]]
    lines = [json.dumps({"url": "0.png", "captions": captions}) for captions in texts]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    write_images(tmp_path, [0])
    manifest, out = tmp_path / "m.jsonl", tmp_path / "out"
    call("embed", "--manifest", manifest, "--output", out, "--model", "tiny", "--scores_only")
    assert counts(out) == (4, 1010, 1004, 6)
    reasons = {(r["source_row"], r["caption_index"]): r["reason"] for r in rows(out / "rejects")}
    assert reasons == {
        (0, 1): "too_large",
        (1, 1): "empty_text",
        (1, 2): "malformed_row",
        (1, 3): "malformed_row",
        (1, 4): "malformed_row",
        (2, 0): "too_large",
    }


def test_list_of_dictionaries_in_json_is_refused_before_work(tmp_path, capsys):
    (tmp_path / "m.jsonl").write_text('{"url": "0.png", "captions": [{"raw": "a"}]}\n')
    call(
        "embed",
        "--manifest",
        tmp_path / "m.jsonl",
        "--output",
        tmp_path / "o",
        "--model",
        "tiny",
        status=2,
    )
    assert "which is no caption" in capsys.readouterr().err
