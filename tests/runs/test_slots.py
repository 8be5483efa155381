"""The main job in slots: tables are those of one process, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import forked
from bench.launched import slots_of
from embedding_runs import assert_same, embeddings, reasons, run, write_manifest
from making import ROOT
from pipelines import cli, status
from pipelines.engine.slots import blame, choice, processes
from poison import poison, poisoned

SLOTS = ("--engine", "processes", "--slots", "2", "--rows_per_unit", "5")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """40 rows, of which some are bad and one kills who decodes it."""
    manifest = write_manifest(tmp_path_factory.mktemp("slots") / "data", rows=40)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    (manifest.parent / rows[16]["url"]).write_bytes(poisoned())
    return manifest


@pytest.fixture(scope="module")
def whole(manifest, model_dir, tmp_path_factory):
    """The tables of a run in this process, where nothing kills."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert run(manifest, output, model_dir, "--rows_per_unit", "5") == 0
    return output


def test_slots_write_the_tables_of_one_process_even_if_one_dies(
    manifest, whole, model_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(processes, "subprocess", forked.as_subprocess())
    poison(tmp_path / "poison", monkeypatch, once=True)
    output = tmp_path / "out"
    assert run(manifest, output, model_dir, *SLOTS) == 0
    assert (tmp_path / "poison" / "dead").exists()
    assert_same(embeddings(output), embeddings(whole))
    assert reasons(output) == reasons(whole)
    found = capsys.readouterr()
    assert "for each of 2 slots" in found.out and "encode" in found.out
    assert not list(output.rglob(".partial-*")) and not (output / "_RUNNING").exists()
    record = json.loads((output / "run.json").read_text())
    assert record["counts"]["rows_read"] == 40
    assert run(manifest, output, model_dir, *SLOTS) == 0  # every unit is there: no slot is started


def test_row_that_kills_is_found_and_rejected_alone(
    manifest, whole, model_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "subprocess", forked.as_subprocess())
    monkeypatch.setattr(blame, "ALONE_DEATHS", 1)  # each death takes the start of a process
    poison(tmp_path / "poison", monkeypatch)
    output = tmp_path / "out"
    assert run(manifest, output, model_dir, *SLOTS) == 0
    assert reasons(output) == reasons(whole) | {"row-16": "decode_failed"}
    assert embeddings(output).num_rows == embeddings(whole).num_rows - 1


def test_workers_of_another_directory_find_what_is_named_from_here(
    manifest, whole, model_dir, tmp_path, monkeypatch
):
    started = forked.as_subprocess()
    started.Popen = partial(started.Popen, cwd="/")
    monkeypatch.setattr(processes, "subprocess", started)
    monkeypatch.chdir(tmp_path)
    os.symlink(model_dir, "model")
    os.symlink(manifest.parent, "data")
    roots = ("--image_root", "data", "--allow_images_from", "data")
    assert run("data/m.jsonl", "out", "model", *SLOTS, *roots) == 0
    assert_same(embeddings(tmp_path / "out"), embeddings(whole))
    argv = ["filter", "--input", "out", "--output", "kept", "--where", "source_row < 5", *SLOTS[:4]]
    assert cli.main(argv) == 0
    assert embeddings(tmp_path / "kept").num_rows == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "kept", "model", "out"]


def start(manifest, output, model_dir, slots):
    flags = ["--manifest", str(manifest), "--output", str(output), "--model", str(model_dir)]
    flags += [*SLOTS[:3], slots, *SLOTS[4:], "--batch_size", "1"]
    command = [sys.executable, "-m", "pipelines.cli", "embed", *flags]
    return forked.Forked(  # its slots are new processes
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for Linux")
@pytest.mark.parametrize(("number", "count"), [(signal.SIGKILL, "2"), (signal.SIGTERM, "1")])
def test_launcher_that_ends_takes_its_slots_along(
    manifest, whole, model_dir, tmp_path, number, count, capsys
):
    output = tmp_path / "out"
    process = start(manifest, output, model_dir, count)
    while not list(output.glob("embeddings/*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    slots = slots_of(process.pid)
    for slot in slots if number == signal.SIGTERM else ():
        os.kill(slot, number)  # as a batch scheduler does, to the whole group
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    until = time.monotonic() + 5
    while any(Path(f"/proc/{slot}").exists() for slot in slots):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(slots) == int(count) and not (output / "_SUCCESS").exists()
    if number == signal.SIGTERM:
        assert process.returncode == 143 and "run again to go on" in said
        assert not (output / "_RUNNING").exists() and not list(output.rglob(".partial-*"))
    assert status.main(["--output", str(output)]) == 1
    assert "no launcher is at work" in capsys.readouterr().out
    done = {path.name: path.stat().st_mtime_ns for path in output.glob("embeddings/*.parquet")}
    assert run(manifest, output, model_dir, "--rows_per_unit", "5") == 0
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("embeddings/*.parquet")}
    assert done.items() <= after.items() and len(after) == 8
    assert_same(embeddings(output), embeddings(whole))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "processes", "--runner", "PrismRunner"], "leave one out"),
        (["--slots", "2"], "`--slots` needs `--engine processes`"),
        (["--engine", "processes", "--slots", "0"], "`--slots` must be a positive int, got 0"),
        (
            ["--engine", "processes", "--ray_address", "auto"],
            "`--ray_address` needs `--engine ray`",
        ),
        (["--part", "3/2"], "expected a part such as 3/64"),
        (["--part", "1/2", "--overwrite"], "would remove what other parts have written"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message, tmp_path, capsys):
    assert run("none.jsonl", tmp_path / "out", "tiny", *flags) == 2
    assert message in capsys.readouterr().err


def test_engine_that_is_not_installed_is_told_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert run("none.jsonl", tmp_path / "out", "tiny", "--engine", "ray") == 2
    assert 'run `pip install "clip-beam[ray]"`' in capsys.readouterr().err
