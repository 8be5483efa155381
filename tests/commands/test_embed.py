"""The main job from end to end, on the in-process runner."""

import json
import os
import signal
import subprocess
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import forked
from clip_core.loading import load
from embedding_runs import assert_same, embeddings, reasons, run, write_manifest
from making import ROOT, encode_image, make_image
from pipelines.command_line.exits import Terminated
from pipelines.ownership.lock import RunLock
from pipelines.runs import execution
from pipelines.storage import listing

ELSEWHERE = ("--runner", "PortableRunner", "--job_endpoint", "localhost:1")


@pytest.fixture
def manifest(tmp_path):
    return write_manifest(tmp_path / "data")


def test_every_row_is_embedded_or_rejected_with_its_reason(manifest, tmp_path, model_dir, capsys):
    output = tmp_path / "out"
    assert run(manifest, output, model_dir, "--rows_per_unit", "6") == 0
    table = embeddings(output)
    assert table.num_rows == 16
    assert reasons(output) == {
        "row-3": "truncated_image",
        "row-5": "not_an_image",
        "row-7": "not_found",
        "row-9": "empty_text",
    }
    record = json.loads((output / "run.json").read_text())
    assert record["counts"]["rows_read"] == 20
    assert record["counts"]["embedded"] + record["counts"]["rejected"] == 20
    assert {"fetch", "decode", "encode", "wall"} <= set(record["seconds"])
    assert (output / "_SUCCESS").exists()
    assert len(list((output / "embeddings").iterdir())) == 4
    assert capsys.readouterr().out.splitlines()[-1] == f"output     {output}"


def test_scores_and_embeddings_are_those_of_the_python_api(manifest, tmp_path, model_dir):
    run(manifest, tmp_path / "out", model_dir)
    model = load(str(model_dir))
    row = embeddings(tmp_path / "out").slice(4, 1).to_pylist()[0]
    from PIL import Image

    image = Image.open(manifest.parent / row["url"])
    expected = model.encode_image(model.preprocess(image)[None], normalize=True)[0].numpy()
    text = model.encode_text(model.tokenize([row["text"]]), normalize=True)[0].numpy()
    assert np.abs(np.array(row["image_embedding"]) - expected).max() < 1e-5
    assert row["similarity"] == pytest.approx(float(expected @ text), abs=1e-5)
    assert (row["original_width"], row["original_height"]) == (80, 70)
    assert row["source"] == str(manifest)


def test_results_do_not_depend_on_batches_units_or_failing_neighbours(
    manifest, tmp_path, model_dir
):
    run(manifest, tmp_path / "a", model_dir, "--batch_size", "16")
    run(manifest, tmp_path / "b", model_dir, "--batch_size", "3", "--rows_per_unit", "4")
    lines = [line for line in manifest.read_text().splitlines() if "row-5" not in line]
    manifest.write_text("\n".join(lines))
    run(manifest, tmp_path / "c", model_dir, "--batch_size", "5")
    for other in ("b", "c"):
        assert_same(embeddings(tmp_path / other), embeddings(tmp_path / "a"))


def test_finished_units_are_skipped_and_the_rest_is_done(manifest, tmp_path, model_dir):
    output = tmp_path / "out"
    run(manifest, output, model_dir, "--rows_per_unit", "6")
    whole = embeddings(output)
    kept, lost = sorted((output / "embeddings").iterdir())[:2]
    lost.unlink()
    (output / "_SUCCESS").unlink()
    before = kept.stat().st_mtime_ns
    assert run(manifest, output, model_dir, "--rows_per_unit", "6") == 0
    assert kept.stat().st_mtime_ns == before
    assert_same(embeddings(output), whole)


def test_output_that_is_a_file_is_refused(tmp_path, model_dir, capsys):
    manifest = write_manifest(tmp_path / "data", rows=1)
    (tmp_path / "out").touch()
    assert run(manifest, tmp_path / "out", model_dir) == 2
    expected = f"clip-beam embed: expected a directory to write to, got the file {tmp_path}/out\n"
    assert capsys.readouterr().err == expected


def test_kept_categories_become_the_values_they_stand_for(tmp_path, model_dir):
    pictures = [encode_image(make_image(seed=n)) for n in range(3)]
    language = pa.array(["en", None, "en"]).dictionary_encode()
    table = pa.table({"image_bytes": pictures, "text": ["a", "b", ""], "language": language})
    pq.write_table(table, tmp_path / "m.parquet")
    flags = ("--keep_columns", "language")
    assert run(tmp_path / "m.parquet", tmp_path / "out", model_dir, *flags) == 0
    assert embeddings(tmp_path / "out")["language"].to_pylist() == ["en", None]
    rejects = ds.dataset(tmp_path / "out" / "rejects").to_table()
    assert rejects["language"].to_pylist() == ["en"]


# A run that stands still once it has written something, and says so.
HELD_EMBED = """
import sys, threading
from pathlib import Path
from pipelines import embed
from pipelines.command_line import exits
from pipelines.encoding import handler
manifest, output, model = sys.argv[1:]
whole = handler.encode_pairs
def held(*arguments):
    if any(Path(output, "embeddings").glob("*.parquet")):
        print("half-way", flush=True)
        threading.Event().wait()
    return whole(*arguments)
handler.encode_pairs = held
flags = ["--manifest", manifest, "--output", output, "--model", model, "--rows_per_unit", "5"]
exits.run(lambda: embed.main([*flags, "--batch_size", "10"]))
"""


def run_half_way(manifest, output, model_dir):
    """Starts a run in a process, and returns it when some of its units are finished."""
    command = [sys.executable, "-c", HELD_EMBED, str(manifest), str(output), str(model_dir)]
    process = forked.Forked(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "half-way\n" in iter(process.stdout.readline, "")
    return process


def test_killed_run_completes_to_the_same_set(tmp_path, model_dir):
    manifest = write_manifest(tmp_path / "data", rows=60)
    process = run_half_way(manifest, tmp_path / "out", model_dir)
    process.kill()
    process.communicate()
    done = len(list(tmp_path.glob("out/embeddings/*.parquet")))
    assert 0 < done < 12 and not (tmp_path / "out" / "_SUCCESS").exists()
    assert run(manifest, tmp_path / "out", model_dir, "--rows_per_unit", "5") == 0
    run(manifest, tmp_path / "whole", model_dir, "--rows_per_unit", "5")
    assert_same(embeddings(tmp_path / "out"), embeddings(tmp_path / "whole"))
    assert reasons(tmp_path / "out") == reasons(tmp_path / "whole")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_run_with_its_status(tmp_path, model_dir, number, status):
    manifest = write_manifest(tmp_path / "data", rows=60)
    process = run_half_way(manifest, tmp_path / "out", model_dir)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == status
    assert "finished units are kept, run again to go on" in message
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize(("error", "status"), [(Terminated, 143), (KeyboardInterrupt, 130)])
def test_signal_inside_a_stage_ends_the_run_with_its_status(
    manifest, tmp_path, model_dir, capsys, monkeypatch, error, status
):
    def struck(*arguments):
        raise error

    monkeypatch.setattr("pipelines.encoding.handler.encode_pairs", struck)
    assert run(manifest, tmp_path / "out", model_dir) == status
    assert "finished units are kept, run again to go on" in capsys.readouterr().err


def test_another_model_into_the_same_output_is_refused(
    manifest, tmp_path, model_dir, vit_dir, capsys
):
    run(manifest, tmp_path / "out", model_dir)
    assert run(manifest, tmp_path / "out", vit_dir) == 2
    message = capsys.readouterr().err
    assert "the output was begun with architecture 'ResNet" in message
    assert "this run has 'ViT" in message
    assert run(manifest, tmp_path / "out", vit_dir, "--overwrite") == 0


def test_changed_option_or_manifest_is_refused(manifest, tmp_path, model_dir, capsys):
    run(manifest, tmp_path / "out", model_dir)
    assert run(manifest, tmp_path / "out", model_dir, "--embedding_dtype", "float16") == 2
    assert "embedding_dtype 'float32', this run has 'float16'" in capsys.readouterr().err
    manifest.write_text(manifest.read_text() + '{"url": "images/1.jpg", "text": "new"}\n')
    assert run(manifest, tmp_path / "out", model_dir) == 2
    assert "use another `--output`, or `--overwrite`" in capsys.readouterr().err


def test_image_policy_reaches_the_pixels(tmp_path, model_dir):
    columns = {"image_bytes": [encode_image(make_image(90, 70, "P"))], "text": ["x"]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    found = {}
    for policy in ("openai", "rgb_first"):
        output = tmp_path / policy
        assert run(tmp_path / "m.parquet", output, model_dir, "--image_policy", policy) == 0
        found[policy] = embeddings(output).column("image_embedding")[0].values.to_numpy()
    assert np.abs(found["openai"] - found["rgb_first"]).max() > 1e-4


def test_too_many_rejects_fail_the_run_but_keep_its_tables(manifest, tmp_path, model_dir, capsys):
    assert run(manifest, tmp_path / "out", model_dir, "--max_reject_fraction", "0.1") == 1
    assert "0.2000 of the rows were rejected" in capsys.readouterr().err
    assert (tmp_path / "out" / "_SUCCESS").exists()  # the counts add up
    assert run(manifest, tmp_path / "out", model_dir, "--max_reject_fraction", "0.2") == 0


def test_run_of_which_nothing_could_be_embedded_fails_each_time(tmp_path, model_dir, capsys):
    lines = ["url,text", *(f"none-{n}.png,a star" for n in range(3)), ",a star"]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    for _ in range(2):
        assert run(tmp_path / "m.csv", tmp_path / "out", model_dir) == 1
        said = capsys.readouterr().err
        assert "none of 4 rows could be embedded, most were rejected as not_found" in said
    assert (tmp_path / "out" / "_SUCCESS").exists()
    (tmp_path / "empty.csv").write_text("url,text\n")
    assert run(tmp_path / "empty.csv", tmp_path / "none", model_dir) == 0


def test_run_goes_on_with_what_changes_no_value(tmp_path, model_dir, capsys):
    """What rejects advise is no other run: where images may come from, or a column's own name."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere" / "0.png").write_bytes(encode_image(make_image()))
    (tmp_path / "data" / "1.png").write_bytes(encode_image(make_image(seed=1)))
    lines = ["url,text", f"{tmp_path}/elsewhere/0.png,a star", "1.png,a star"]
    manifest = tmp_path / "data" / "m.csv"
    manifest.write_text("\n".join(lines) + "\n")
    assert run(manifest, tmp_path / "out", model_dir) == 0
    assert list(reasons(tmp_path / "out").values()) == ["not_allowed"]
    retry = (
        "--retry_rejects",
        "--allow_images_from",
        f"{tmp_path}/elsewhere",
        "--text_column",
        "text",
    )
    assert run(manifest, tmp_path / "out", model_dir, *retry) == 0
    assert embeddings(tmp_path / "out").num_rows == 2
    assert run(manifest, tmp_path / "out", model_dir, "--text_column", "url") == 2
    assert "was begun with text 'text'" in capsys.readouterr().err
    assert run(manifest, tmp_path / "out", model_dir, "--image_root", str(tmp_path)) == 2
    assert "was begun with image_root" in capsys.readouterr().err


def test_fingerprint_says_how_pictures_were_resized(manifest, tmp_path, model_dir):
    assert run(manifest, tmp_path / "out", model_dir, "--decode", "fast") == 0
    found = json.loads((tmp_path / "out" / "run.json").read_text())["fingerprint"]
    assert "bicubic (fast)" in found["preprocessing"] and found["decode"] == "fast"


def test_bad_usage_exits_2_before_anything_is_written(manifest, tmp_path, model_dir, capsys):
    output = tmp_path / "out"
    cases = [
        ((tmp_path / "none.csv", model_dir), "no manifest files matched"),
        ((manifest, tmp_path / "no-model"), "there is no model"),
        ((manifest, manifest), "expected|bare state dict|not a file of weights"),
    ]
    for (source, model), expected in cases:
        assert run(source, output, model) == 2
        message = capsys.readouterr().err
        assert any(part in message for part in expected.split("|")), message
        assert message.startswith("clip-beam embed: ") and message.count("\n") == 1
    assert run(manifest, output, model_dir, "--text_column", "title") == 2
    assert (
        "`--text_column` names 'title', the manifest has columns text, uid, url"
        in capsys.readouterr().err
    )
    assert run(manifest, output, model_dir, *ELSEWHERE) == 2
    assert "pass, for example, `--device cuda" in capsys.readouterr().err
    assert not output.exists()


def test_empty_manifest_is_a_finished_run(tmp_path, model_dir):
    (tmp_path / "m.jsonl").write_text("")
    assert run(tmp_path / "m.jsonl", tmp_path / "out", model_dir) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["counts"]["rows_read"] == 0
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_scores_only_keep_columns_and_half_precision(tmp_path, model_dir):
    data = encode_image(make_image())
    columns = {"image_bytes": [data], "text": ["x"], "license": ["cc"], "year": [2020]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    flags = ("--keep_columns", "license,year")
    assert run(tmp_path / "m.parquet", tmp_path / "a", model_dir, "--scores_only", *flags) == 0
    names = embeddings(tmp_path / "a").schema.names
    assert names[-3:] == ["text_truncated", "license", "year"]
    assert (
        run(
            tmp_path / "m.parquet",
            tmp_path / "b",
            model_dir,
            "--embedding_dtype",
            "float16",
            *flags,
        )
        == 0
    )
    assert (
        embeddings(tmp_path / "b").schema.field("image_embedding").type.value_type == pa.float16()
    )


def test_manifest_images_and_output_on_another_filesystem(manifest, model_dir):
    memory = fsspec.filesystem("memory")
    memory.put(str(manifest.parent), "/bucket/data", recursive=True)
    assert run("memory://bucket/data/m.jsonl", "memory://bucket/out", model_dir) == 0
    files = listing.list_files("memory://bucket/out/embeddings")
    with memory.open(files[0]) as file:
        assert pq.read_table(file).num_rows == 16
    assert memory.exists("/bucket/out/_SUCCESS")


def test_full_disk_is_one_sentence_and_leaves_no_cut_file(
    manifest, tmp_path, model_dir, capsys, monkeypatch
):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(manifest, tmp_path / "out", model_dir) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/embeddings/*"))


def test_two_runs_into_one_output_are_kept_apart(manifest, tmp_path, model_dir, capsys):
    lock = RunLock(str(tmp_path / "out"))
    lock.acquire()
    assert run(manifest, tmp_path / "out", model_dir) == 2
    message = capsys.readouterr().err
    assert "another run writes to this output" in message and message.count("\n") == 1
    assert not (tmp_path / "out" / "embeddings").exists()
    lock.release()
    assert run(manifest, tmp_path / "out", model_dir) == 0
    assert not (tmp_path / "out" / "_RUNNING").exists()


def test_run_whose_output_was_taken_over_stops(manifest, tmp_path, model_dir, capsys, monkeypatch):
    original = execution._run_pipeline

    def taken_over(*arguments):
        (tmp_path / "out" / "_RUNNING").write_text('{"run": "other"}')
        return original(*arguments)

    monkeypatch.setattr(execution, "_run_pipeline", taken_over)
    assert run(manifest, tmp_path / "out", model_dir) == 1
    assert "another run has taken over the output" in capsys.readouterr().err
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_lost_device_is_one_sentence_and_rejects_nothing(
    manifest, tmp_path, model_dir, capsys, monkeypatch
):
    def lost(*arguments):
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr("pipelines.encoding.handler.encode_pairs", lost)
    assert run(manifest, tmp_path / "out", model_dir) == 1
    message = capsys.readouterr().err
    assert "cannot encode even a blank image (RuntimeError: CUDA error: device lost)" in message
    assert "Traceback" not in message and not list(tmp_path.glob("out/*/*"))
