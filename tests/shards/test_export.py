"""Shards by the rules of the loaders that train from them, stated here once more."""

import hashlib
import io
import json
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import forked
from making import ROOT, encode_image, make_image
from pipelines import cli
from pipelines.output.layout import FINGERPRINT_KEY
from pipelines.output.unit_record import UNIT_KEY
from pipelines.shards import work
from scored_runs import write_scored
from small_runs import run as embed
from small_runs import write_jsonl, write_parquet, write_tar

MANIFESTS = {"jsonl": write_jsonl, "tar": write_tar, "parquet": write_parquet}
# What open_clip takes as an image; a sample without one it drops.
OPEN_CLIP = ("png", "jpg", "jpeg", "webp")


@pytest.fixture(scope="module", params=MANIFESTS)
def scene(request, tmp_path_factory, model_dir):
    """A run over a manifest whose images are files, members or bytes, and what a filter keeps."""
    return make_scene(request.param, tmp_path_factory.mktemp("shards"), model_dir)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, model_dir):
    """The same over files alone."""
    return make_scene("jsonl", tmp_path_factory.mktemp("plain"), model_dir)


def make_scene(kind, root, model_dir):
    manifest = MANIFESTS[kind](root / "data")
    assert embed(manifest, root / "run", model_dir) == 0
    flags = ["--input", str(root / "run"), "--output", str(root / "kept")]
    assert cli.main(["filter", *flags, "--where", "source_row <> 4"]) == 0
    return root


def export(root, output, *flags, form="webdataset", source="kept"):
    argv = ["export", "--input", str(root / source), "--output", str(output), "--format", form]
    given = flags if "--rows_per_shard" in flags else ("--rows_per_shard", "3", *flags)
    return cli.main([*argv, "--trust_run", *given])


def webdataset(paths):
    """Yields samples as webdataset groups them: the key ends at the first dot, and members of one
    key are side by side."""
    for path in paths:
        sample = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if sample and sample["__key__"] != key:
                    yield sample
                    sample = {}
                assert ending not in sample
                sample |= {"__key__": key, ending.lower(): tar.extractfile(member).read()}
        if sample:
            yield sample


def kept_rows(root, source="kept"):
    table = ds.dataset(root / source / "embeddings").to_table()
    return table.sort_by("source_row").to_pylist()


def test_shards_hold_every_kept_image_and_caption_once(scene, tmp_path):
    assert export(scene, tmp_path) == 0
    paths = sorted((tmp_path / "shards").glob("*.tar"))
    samples = list(webdataset(paths))
    rows = kept_rows(scene)
    assert [path.name for path in paths] == ["00000.tar", "00001.tar", "00002.tar"]
    # Seven digits: five of the shard and, at 3 rows each, one of the row.
    assert [s["__key__"] for s in samples] == [f"{n // 3:05d}{n % 3}" for n in range(len(rows))]
    for sample, row in zip(samples, rows, strict=True):
        assert any(ending in OPEN_CLIP for ending in sample)
        assert hashlib.sha256(sample["png"]).hexdigest() == row["sha256"]
        assert sample["txt"].decode() == row["text"]
        about = json.loads(sample["json"])
        assert (about["uid"], about["key"]) == (row["uid"], sample["__key__"])
        assert about["similarity"] == row["similarity"] and "image_embedding" not in about


def test_index_sizes_and_statistics_count_what_is_there(scene, tmp_path):
    assert export(scene, tmp_path) == 0
    shards = tmp_path / "shards"
    index = json.loads((shards / "index.json").read_text())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    sizes = json.loads((shards / "sizes.json").read_text())
    for entry in index["shardlist"]:
        path = shards / entry["url"]
        count = len(list(webdataset([path])))
        assert (entry["nsamples"], entry["filesize"]) == (count, path.stat().st_size)
        stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        assert sizes[entry["url"]] == stats["successes"] == stats["count"] == count
        assert stats["status_dict"] == {"success": count}


def test_shards_are_a_manifest_of_the_same_rows(scene, tmp_path, model_dir):
    assert export(scene, tmp_path / "out") == 0
    flags = ("--allow_images_from", str(tmp_path))
    assert embed(tmp_path / "out" / "shards", tmp_path / "again", model_dir, *flags) == 0
    again = ds.dataset(tmp_path / "again" / "embeddings").to_table()
    assert {(r["uid"], r["sha256"], r["text"]) for r in again.to_pylist()} == {
        (r["uid"], r["sha256"], r["text"]) for r in kept_rows(scene)
    }


def test_folder_has_a_file_for_each_part_of_a_sample(scene, tmp_path):
    assert export(scene, tmp_path, form="folder") == 0
    rows = kept_rows(scene)
    for number, row in enumerate(rows):
        path = tmp_path / "images" / f"{number // 3:05d}" / f"{number // 3:05d}{number % 3}"
        assert hashlib.sha256(path.with_suffix(".png").read_bytes()).hexdigest() == row["sha256"]
        assert path.with_suffix(".txt").read_text() == row["text"]
        assert json.loads(path.with_suffix(".json").read_text())["uid"] == row["uid"]
    assert len(list((tmp_path / "images").glob("*/*"))) == 3 * len(rows)


def test_hugging_face_is_told_that_a_column_is_an_image(scene, tmp_path):
    assert export(scene, tmp_path, form="hf") == 0
    paths = sorted((tmp_path / "data").iterdir())
    assert [path.name for path in paths] == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    table = pa.concat_tables(pq.read_table(path) for path in paths)
    told = json.loads(pq.read_schema(paths[0]).metadata[b"huggingface"])
    assert told["info"]["features"] == {"image": {"_type": "Image"}}
    assert table.schema.field("image").type == pa.struct(
        [("bytes", pa.binary()), ("path", pa.string())]
    )
    rows = kept_rows(scene)
    assert table["uid"].to_pylist() == [row["uid"] for row in rows]
    hashes = [hashlib.sha256(image["bytes"]).hexdigest() for image in table["image"].to_pylist()]
    assert hashes == [row["sha256"] for row in rows]


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("_stats.json")
    }


@pytest.mark.parametrize("form", ["webdataset", "folder", "hf"])
@pytest.mark.parametrize("kill_at", [0, 2])
def test_rerun_completes_the_same_set(plain, tmp_path, monkeypatch, form, kill_at):
    assert export(plain, tmp_path / "whole", form=form) == 0
    write = work.ShardExport.write

    def killed(self, shard):
        if shard.number == kill_at:
            folder = tmp_path / "cut" / self.form.data
            folder.mkdir(exist_ok=True, parents=True)
            (folder / ".partial-0123456789abcdef").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(shard.number)
        return write(self, shard)

    done = []
    monkeypatch.setattr(work.ShardExport, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        export(plain, tmp_path / "cut", form=form)
    assert done == list(range(kill_at))
    kill_at = None
    assert export(plain, tmp_path / "cut", form=form) == 0
    assert done == [0, 1, 2]
    cut, whole = files(tmp_path / "cut"), files(tmp_path / "whole")
    index = next((path for path in whole if path.name == "index.json"), None)
    if index:  # it has the name of its output
        assert json.loads(cut.pop(index))["shardlist"] == json.loads(whole.pop(index))["shardlist"]
    assert cut == whole
    assert export(plain, tmp_path / "cut", form=form) == 0 and done == [0, 1, 2]


def test_workers_write_the_same(plain, tmp_path):
    assert export(plain, tmp_path / "here") == 0
    assert export(plain, tmp_path / "there", "--runner", "FnApiRunner") == 0
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    assert {p: d for p, d in here.items() if p.suffix == ".tar"} == {
        p: d for p, d in there.items() if p.suffix == ".tar"
    }


@pytest.mark.parametrize("form", ["webdataset", "folder", "hf"])
def test_another_export_is_refused_and_replaced_if_asked(plain, tmp_path, capsys, form):
    assert export(plain, tmp_path, form=form) == 0
    assert export(plain, tmp_path, "--rows_per_shard", "2", form=form) == 2
    assert (
        "the output was begun with rows_per_shard 3, this export has 2" in capsys.readouterr().err
    )
    assert export(plain, tmp_path, form=form, source="run") == 2
    assert "the output was begun with input" in capsys.readouterr().err
    assert export(plain, tmp_path, "--rows_per_shard", "100", "--overwrite", form=form) == 0
    assert len([path for path in files(tmp_path) if path.name == "00000.parquet"]) == 1
    assert not any(path.name == "00001.parquet" for path in files(tmp_path))
    mine = tmp_path / work.SHARD_FORMATS[form].data / "notes.txt"
    mine.write_text("mine")
    assert export(plain, tmp_path, "--rows_per_shard", "2", "--overwrite", form=form) == 2
    assert f"{mine} is there, which this program did not write" in capsys.readouterr().err


IMAGES = [("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {})]


@pytest.fixture
def mixed(tmp_path):
    """Images of each format under names that say something else; one is gone, one another now."""
    rows = []
    data = tmp_path / "data"
    data.mkdir()
    for number, (kind, settings) in enumerate([*IMAGES, *IMAGES[:2]]):
        image = encode_image(make_image(30 + number, 20, seed=number), kind, **settings)
        (data / f"{number}.img").write_bytes(image)
        rows.append({"uid": f"{number:032x}", "url": f"{number}.img", "source": str(data / "m.jsonl"),
                     "sha256": hashlib.sha256(image).hexdigest()})  # fmt: skip
    write_scored(tmp_path / "run", [rows])
    (data / "6.img").unlink()
    (data / "7.img").write_bytes(encode_image(make_image(9, 9), "PNG"))
    return tmp_path


def test_every_row_is_written_or_named(mixed, capsys):
    out = mixed / "out"
    assert export(mixed, out, "--rows_per_shard", "100", source="run") == 0
    said = capsys.readouterr().out
    assert "written    3 in 1 shards" in said and "--reencode" in said
    assert "not there  5 (hash_mismatch 1, not_found 1, other_format 3)" in said
    samples = list(webdataset([out / "shards" / "00000.tar"]))
    endings = [next(ending for ending in sample if ending in OPEN_CLIP) for sample in samples]
    assert endings == ["png", "jpg", "webp"]
    ledger = pq.read_table(out / "shards" / "00000.parquet")
    assert FINGERPRINT_KEY in ledger.schema.metadata
    told = {r["uid"][-1]: r["error_message"] for r in ledger.to_pylist()}
    assert told == {"0": None, "1": None, "2": None, "3": "other_format", "4": "other_format",
                    "5": "other_format", "6": "not_found", "7": "hash_mismatch"}  # fmt: skip
    written = [r["key"] for r in ledger.to_pylist() if r["status"] == "success"]
    assert written == [sample["__key__"] for sample in samples]


def test_other_formats_are_written_as_png_of_the_same_pixels_if_asked(mixed):
    from PIL import Image

    out = mixed / "out"
    assert export(mixed, out, "--reencode", "--rows_per_shard", "100", source="run") == 0
    samples = list(webdataset([out / "shards" / "00000.tar"]))
    assert len(samples) == 6
    for number, sample in enumerate(samples[3:], 3):
        about = json.loads(sample["json"])
        original = (mixed / "data" / f"{number}.img").read_bytes()
        assert about["sha256"] == hashlib.sha256(sample["png"]).hexdigest()
        assert about["original_sha256"] == hashlib.sha256(original).hexdigest()
        found, expected = (
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            for data in (sample["png"], original)
        )
        assert (found == expected).all()


def test_nothing_is_opened_that_nobody_allowed(mixed, capsys):
    argv = ["export", "--input", str(mixed / "run"), "--output", str(mixed / "out")]
    assert cli.main([*argv, "--format", "webdataset"]) == 1
    said = capsys.readouterr()
    assert (
        f"images     8 not allowed; allow them with `--allow_images_from {mixed}/data`" in said.out
    )
    assert "no image of the run was written" in said.err


def test_captions_of_one_image_are_a_sample_each(tmp_path):
    data = encode_image(make_image(20, 20), "PNG")
    (tmp_path / "0.png").write_bytes(data)
    row = {"url": "0.png", "source": str(tmp_path / "m.jsonl"), "source_row": 0,
           "sha256": hashlib.sha256(data).hexdigest()}  # fmt: skip
    write_scored(tmp_path / "run", [[row | {"text": "one"}, row | {"text": "two"}]])
    assert export(tmp_path, tmp_path / "out", source="run") == 0
    samples = list(webdataset([tmp_path / "out" / "shards" / "00000.tar"]))
    assert [sample["txt"] for sample in samples] == [b"one", b"two"]
    assert samples[0]["png"] == samples[1]["png"] == data


def test_uids_of_a_resharder_are_those_of_the_shards(tmp_path, model_dir):
    manifest = write_jsonl(tmp_path / "data")
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(r | {"uid": f"{n * 7919:032x}"}) + "\n"
                                for n, r in enumerate(lines)))  # fmt: skip
    assert embed(manifest, tmp_path / "run", model_dir) == 0
    argv = ["filter", "--input", str(tmp_path / "run"), "--output", str(tmp_path / "kept")]
    assert cli.main([*argv, "--where", "source_row > 3"]) == 0
    assert export(tmp_path, tmp_path / "all", source="run") == 0
    assert export(tmp_path, tmp_path / "some") == 0
    subset = {tuple(pair) for pair in np.load(tmp_path / "kept" / "uids.npy").tolist()}

    def resharded(folder):  # by the uid in each sample's json, as DataComp's does
        for sample in webdataset(sorted((folder / "shards").glob("*.tar"))):
            uid = json.loads(sample["json"])["uid"]
            if (int(uid[:16], 16), int(uid[16:32], 16)) in subset:
                yield uid, sample["png"], sample["txt"]

    found = list(resharded(tmp_path / "some"))
    assert found == list(resharded(tmp_path / "all")) and len(found) == len(subset) > 0


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--format", "laion", "--reencode"), "`--reencode` does nothing with `--format laion`"),
        (("--format", "hf", "--rows_per_shard", "-1"), "`--rows_per_shard` must be 1 or more"),
        (("--format", "hf", "--model_name", "b32"), "takes all models of a run"),
    ],
)
def test_wrong_usage_is_one_sentence(tmp_path, capsys, flags, told):
    write_scored(tmp_path / "run", [[{}]])
    argv = ["export", "--input", str(tmp_path / "run"), "--output", str(tmp_path / "out"), *flags]
    assert cli.main(argv) == 2
    assert told in capsys.readouterr().err


def test_unit_of_a_strangers_file_may_be_anything(mixed, capsys):
    path = mixed / "run" / "embeddings" / "unit-0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, UNIT_KEY: b"[1]"}), path)
    assert export(mixed, mixed / "out", source="run") == 0
    assert "written    3" in capsys.readouterr().out


def test_killed_process_leaves_nothing_twice(tmp_path, model_dir):
    """SIGKILL in the middle of a shard, then the same command again."""
    root = make_scene("tar", tmp_path, model_dir)
    code = (
        "import os, sys; from pipelines import export; from pipelines.shards import formats\n"
        "add, left = formats.tarfile.TarFile.addfile, [8]\n"
        "def addfile(*arguments):\n"
        "    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), 9)\n"
        "    return add(*arguments)\n"
        "formats.tarfile.TarFile.addfile = addfile\n"
        "export.main(sys.argv[1:])"
    )
    flags = ["--input", root / "kept", "--format", "webdataset", "--output", root / "out"]
    flags += ["--trust_run", "--rows_per_shard", "2"]
    done = forked.run([sys.executable, "-c", code, *map(str, flags)], cwd=ROOT)
    assert done.returncode == -9
    shards = root / "out" / "shards"
    assert len(list(shards.glob("*.tar"))) == 1 and len(list(shards.glob(".partial-*"))) == 1
    assert export(root, root / "out", "--rows_per_shard", "2") == 0
    assert not list(shards.glob(".partial-*"))
    uids = [json.loads(s["json"])["uid"] for s in webdataset(sorted(shards.glob("*.tar")))]
    assert uids == [row["uid"] for row in kept_rows(root)]


def test_shard_that_was_removed_is_written_again(plain, tmp_path):
    assert export(plain, tmp_path) == 0
    before = files(tmp_path)
    (tmp_path / "shards" / "00001.tar").unlink()
    assert export(plain, tmp_path) == 0 and files(tmp_path) == before
