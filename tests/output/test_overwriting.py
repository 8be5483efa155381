"""`--overwrite` removes what this program wrote, and nothing else."""

import json
import os
import shutil

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image
from pipelines import cli
from pipelines.output.overwriting import OutputExistsError, check_room, make_room, remove_partials
from pipelines.output.own_files import Origin, origin_of
from scored_runs import write_scored

# Command, the names it writes in its output, and one that it surely writes.
COMMANDS = {
    "filter": (["--min_similarity", "0"], "embeddings"),
    "datacomp": (["--format", "datacomp", "--datacomp_key", "b32"], "metadata"),
    "clip_retrieval": (["--format", "clip_retrieval"], "img_emb"),
    "laion": (["--format", "laion"], "metadata"),
    "tables": (["--format", "tables"], "scores"),
    "classify": (["--labels", "a,b"], "labels"),
    "embed": ([], "embeddings"),
}
FOREIGN = {
    "notes.txt": b"mine",
    "deep/er/0001.txt": b"mine",
    "deep/.hidden": b"mine",
    ".partial-download": b"mine",
    ".partial-notes.zip": b"PK mine",
    "other.parquet": None,
    "data.json": b"{}",
    "0.npy": b"mine",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory, model_dir):
    """A manifest, and the run that `embed` makes of it."""
    root = tmp_path_factory.mktemp("overwriting")
    lines = []
    for number in range(3):
        (root / f"{number}.png").write_bytes(encode_image(make_image(seed=number)))
        uid = f"{number:032x}"
        lines.append(json.dumps({"uid": uid, "image": f"{number}.png", "text": f"a {number}"}))
    (root / "m.jsonl").write_text("\n".join(lines) + "\n")
    run = root / "run"
    assert written(root, "embed", run, model_dir) == 0
    return root


def written(scene, command, output, model, *more):
    flags = COMMANDS[command][0]
    if command == "embed":
        source = ["embed", "--manifest", str(scene / "m.jsonl"), "--model", str(model)]
    else:
        name = command if command in ("filter", "classify") else "export"
        source = [name, "--input", str(scene / "run")]
        source += ["--model", str(model)] if command == "classify" else []
    return cli.main([*source, "--output", str(output), *flags, *more])


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_own_output_is_replaced(scene, tmp_path, model_dir, command):
    assert written(scene, command, tmp_path, model_dir) == 0
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written(scene, command, tmp_path, model_dir, "--overwrite") == 0
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_named_and_everything_stays(
    scene, tmp_path, model_dir, capsys, command, name
):
    own = COMMANDS[command][1]
    if name == "notes.txt":  # beside what the program wrote; else alone
        assert written(scene, command, tmp_path, model_dir) == 0
    path = put(tmp_path / own, name, FOREIGN[name])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert written(scene, command, tmp_path, model_dir, "--overwrite") == 2
    error = capsys.readouterr().err
    assert f"{path} is there, which this program did not write" in error
    assert error.count("\n") == 1
    now = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {p: data for p, data in now.items() if p.name != "_RUNNING"} == before


@pytest.mark.parametrize("command", ["filter", "laion", "classify"])
def test_advice_to_overwrite_is_given_only_where_it_will_do(
    scene, tmp_path, model_dir, capsys, command
):
    put(tmp_path / COMMANDS[command][1], "train/0001.txt", b"mine")
    assert written(scene, command, tmp_path, model_dir) == 2
    error = capsys.readouterr().err
    assert "train/0001.txt is there" in error and "--overwrite" not in error


def test_files_beside_the_tables_are_nobodys_business(scene, tmp_path, model_dir):
    notes = put(tmp_path, "notes.txt", b"mine")
    table = put(tmp_path, "mine/a.parquet", None)
    for _ in range(2):
        assert written(scene, "embed", tmp_path, model_dir, "--overwrite") == 0
    assert notes.exists() and table.exists()


@pytest.mark.parametrize("name", ["run.json", "uids.npy"])
def test_record_of_others_under_a_name_of_ours_is_foreign(scene, tmp_path, model_dir, capsys, name):
    if name == "uids.npy":
        np.save(tmp_path / name, np.zeros(3, np.dtype("u8,u8")))
    else:
        (tmp_path / name).write_text('{"options": 1}')
    assert written(scene, "filter", tmp_path, model_dir, "--overwrite") == 2
    assert f"{name} is there, which this program did not write" in capsys.readouterr().err
    assert (tmp_path / name).exists()


def test_link_is_not_followed_and_not_removed(scene, tmp_path, model_dir):
    mine = put(tmp_path / "mine", "a.txt", b"mine").parent
    output = tmp_path / "out"
    output.mkdir()
    os.symlink(mine, output / "labels")
    with pytest.raises(OutputExistsError, match="labels is there"):
        make_room(str(output), ["labels"], overwrite=True)
    (output / "labels").unlink()
    (output / "labels").mkdir()
    os.symlink(mine, output / "labels" / "deeper")
    with pytest.raises(OutputExistsError, match="deeper is there"):
        make_room(str(output), ["labels"], overwrite=True)
    assert (mine / "a.txt").exists()


def test_partials_of_ours_go_and_those_of_others_stay(tmp_path):
    ours = [
        put(tmp_path, ".partial-ab01-01234567", b"PAR1 cut"),
        put(tmp_path, ".partial-0123456789abcdef", b""),
    ]
    others = [
        put(tmp_path, ".partial-download", b"mine"),
        put(tmp_path, ".partial-abc_1234.zip", b"PK"),
        put(tmp_path, ".partial-", b""),
        put(tmp_path, ".partial-ABCDEFGH", b""),
    ]
    remove_partials(str(tmp_path))
    assert not any(path.exists() for path in ours) and all(path.exists() for path in others)
    remove_partials(str(tmp_path / "none"))
    remove_partials("memory://none")


def test_stores_are_looked_at_as_deep(tmp_path):
    files = fsspec.filesystem("memory")
    files.pipe_file("/room/kept/deep/a.txt", b"mine")
    with pytest.raises(OutputExistsError, match="memory://room/kept/deep/a.txt is there"):
        check_room("memory://room", ["kept"], overwrite=True)
    files.rm("/room", recursive=True)
    run = write_scored(tmp_path, [[{}]])
    files.put(str(run / "embeddings"), "/room/", recursive=True)
    with pytest.raises(OutputExistsError, match="pass `overwrite`"):
        make_room("memory://room", ["embeddings"], overwrite=False)
    make_room("memory://room", ["embeddings"], overwrite=True)
    assert not files.find("/room")


@pytest.mark.parametrize(
    "name, content, origin",
    [
        ("run.json", b'{"counts": {}, "fingerprint": {}}', Origin.MARKED),
        ("run.json", b'{"counts": {}}', Origin.FOREIGN),
        ("run.json", b"[", Origin.FOREIGN),
        ("_SUCCESS", b"", Origin.EMPTY),
        ("a.parquet", b"", Origin.EMPTY),
        ("a.txt", b"", Origin.FOREIGN),
        ("_SUCCESS", b"done", Origin.FOREIGN),
        ("a.schema.json", b'[{"name": "a", "type": "STRING", "mode": "NULLABLE"}]', Origin.MARKED),
        (
            "a.schema.json",
            b'[{"name": "a", "type": "STRING", "mode": "NULLABLE", "description": "my words"}]',
            Origin.FOREIGN,
        ),
        ("a.parquet", b"PAR1 cut", Origin.FOREIGN),
        ("a.npz", b"PK cut", Origin.FOREIGN),
        ("uids.npy", b"\x93NUMPY cut", Origin.FOREIGN),
        ("config.json", b"{}", Origin.FOREIGN),
    ],
)
def test_files_are_told_by_what_is_in_them(tmp_path, name, content, origin):
    assert origin_of(str(put(tmp_path, name, content))) is origin


def test_annotations_of_a_data_set_survive(scene, tmp_path, model_dir, capsys):
    """Somebody's folder, whose `labels` are of no run."""
    put(tmp_path / "D", "labels/train/0001.txt", b"0 0.5 0.5 1 1")
    shutil.copy(scene / "0.png", tmp_path / "D")
    for flags in ((), ("--overwrite",)):
        assert written(scene, "classify", tmp_path / "D", model_dir, *flags) == 2
    assert (tmp_path / "D" / "labels" / "train" / "0001.txt").read_bytes() == b"0 0.5 0.5 1 1"
