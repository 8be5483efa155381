"""A manifest that is written to after rows of it were embedded: no row is lost, none is there twice."""

import io
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from embedding_runs import run
from making import encode_image, make_image
from pipelines.encoding import handler
from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.units import ManifestChangedError, read_unit

ROWS = 12
IMAGES = [encode_image(make_image(40, 40, seed=n), "PNG") for n in range(ROWS)]
IMAGES[4] = b"<html>"  # one reject


def write_jsonl(folder, order):
    for number, data in enumerate(IMAGES):
        (folder / f"{number:02}.png").write_bytes(data)
    lines = [json.dumps({"uid": f"u{n:02}", "url": f"{n:02}.png", "text": "a star"}) for n in order]
    return "m.jsonl", ("\n".join(lines) + "\n").encode()


def write_parquet(folder, order):
    columns = {"uid": [f"u{n:02}" for n in order], "image_bytes": [IMAGES[n] for n in order]}
    table = pa.table(columns | {"text": ["a star"] * ROWS})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return "m.parquet", sink.getvalue()


def write_tar(folder, order):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for number in order:
            for suffix, data in (("png", IMAGES[number]), ("txt", b"a star")):
                member = tarfile.TarInfo(f"u{number:02}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return "m.tar", sink.getvalue()


FORMS = [write_jsonl, write_parquet, write_tar]


def forms(*chosen):
    return pytest.mark.parametrize("form", chosen, ids=lambda form: form.__name__)


SORTED, TURNED = range(ROWS), [*range(6, ROWS), *range(6)]


def write(folder, form, order=SORTED):
    folder.mkdir(exist_ok=True)
    name, data = form(folder, order)
    (folder / name).write_bytes(data)
    return folder / name


def embed(manifest, output, model, *flags):
    return run(manifest, output, model, "--rows_per_unit", "4", *flags)


def uids(output):
    found = [ds.dataset(output / table).to_table()["uid"].to_pylist()
             for table in ("embeddings", "rejects")]  # fmt: skip
    return [sorted(names) for names in found]


ALL = [[f"u{n:02}" for n in SORTED if n != 4], ["u04"]]


def cut_off(manifest, output, model, monkeypatch):
    """Leaves a run of which some units are there and others are not."""
    assert embed(manifest, output, model) == 0
    (output / "_SUCCESS").unlink()
    units = sorted((output / "embeddings").iterdir())
    for unit in units[1:] if len(units) > 1 else []:
        unit.unlink()


@forms(*FORMS)
def test_rows_in_another_order_are_embedded_once_each(
    tmp_path, model_dir, form, monkeypatch, capsys
):
    manifest = write(tmp_path / "data", form)
    size = manifest.stat().st_size
    cut_off(manifest, tmp_path / "out", model_dir, monkeypatch)
    write(tmp_path / "data", form, TURNED)
    assert manifest.stat().st_size == size
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    assert uids(tmp_path / "out") == ALL
    said = capsys.readouterr().out
    assert (
        "changed    1 finished units" in said and "; 1 have other rows and are done again" in said
    )


@forms(write_parquet)
def test_restored_time_stamp_hides_nothing(tmp_path, model_dir, form, monkeypatch):
    manifest = write(tmp_path / "data", form)
    before = manifest.stat()
    cut_off(manifest, tmp_path / "out", model_dir, monkeypatch)
    write(tmp_path / "data", form, TURNED)
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    assert uids(tmp_path / "out") == ALL


@forms(write_jsonl, write_tar)
def test_mere_touch_costs_a_look_and_no_embedding(tmp_path, model_dir, form, monkeypatch, capsys):
    manifest = write(tmp_path / "data", form)
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    os.utime(manifest)
    capsys.readouterr()
    monkeypatch.setattr(handler, "encode_pairs", lambda *_: pytest.fail("nothing is encoded"))
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    assert "; 0 have other rows and are done again" in capsys.readouterr().out


def test_unchanged_file_is_not_read_again(tmp_path, model_dir, monkeypatch, capsys):
    manifest = write(tmp_path / "data", write_jsonl)
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    assert "\nchanged " not in capsys.readouterr().out


def test_edited_image_in_the_manifest_is_a_change(tmp_path, model_dir, monkeypatch, capsys):
    manifest = write(tmp_path / "data", write_tar)
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    data = bytearray(manifest.read_bytes())
    place = data.index(IMAGES[7]) + len(IMAGES[7]) // 2
    data[place : place + 4] = bytes(255 - value for value in data[place : place + 4])
    manifest.write_bytes(data)
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    assert "; 1 have other rows" in capsys.readouterr().out


@forms(write_parquet)
def test_rejects_of_a_changed_manifest_are_not_put_into_other_rows_places(
    tmp_path, model_dir, form
):
    manifest = write(tmp_path / "data", form)
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    write(tmp_path / "data", form, TURNED)
    assert embed(manifest, tmp_path / "out", model_dir, "--retry_rejects") == 0
    assert uids(tmp_path / "out") == ALL


@forms(write_jsonl, write_tar)
def test_replay_refuses_a_manifest_with_other_rows_and_takes_a_touched_one(
    tmp_path, model_dir, form, capsys
):
    manifest = write(tmp_path / "data", form)
    assert embed(manifest, tmp_path / "out", model_dir) == 0
    again = ("--allow_manifests_from", str(tmp_path / "data"))
    os.utime(manifest)
    assert run(tmp_path / "out" / "rejects", tmp_path / "a", model_dir, *again) == 1  # all rejected
    assert uids(tmp_path / "a")[1:] == [["u04"]]
    write(tmp_path / "data", form, TURNED)
    capsys.readouterr()
    assert run(tmp_path / "out" / "rejects", tmp_path / "b", model_dir, *again) == 1
    assert "has other rows than when" in capsys.readouterr().err
    assert not list((tmp_path / "b").glob("*/*.parquet"))


@forms(*FORMS)
def test_file_replaced_between_planning_and_reading_fails_the_unit(tmp_path, form):
    manifest = write(tmp_path / "data", form)
    (unit, *_) = plan_units(ManifestRequest((str(manifest),), rows_per_unit=4)).units
    other = write(tmp_path / "other", form, TURNED)
    os.replace(other, manifest)
    with pytest.raises(ManifestChangedError, match="has changed since the run was planned"):
        list(read_unit(unit))


def test_file_replaced_while_it_is_read_fails_the_unit(tmp_path):
    manifest = write(tmp_path / "data", write_jsonl)
    (unit, *_) = plan_units(ManifestRequest((str(manifest),), rows_per_unit=4)).units
    rows = read_unit(unit)
    next(rows)
    manifest.write_bytes(manifest.read_bytes())
    with pytest.raises(ManifestChangedError, match="run again"):
        list(rows)
