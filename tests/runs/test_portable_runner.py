"""The job on a portable runner: Beam's own job service, to which this process lends its workers."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pyarrow.dataset as ds
import pytest

import forked
from embedding_runs import assert_same, embeddings, reasons, run, write_manifest
from pipelines import cli

START_S = 60
ANSWER = ("--job_server_timeout", "1")


@contextmanager
def job_service(port_file):
    """Starts a job service; yields its process, and flags that name it."""
    service = "apache_beam.runners.portability.local_job_service_main"
    process = forked.Forked(
        [sys.executable, "-m", service, "--port", "0", "--port_file", str(port_file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_S
    while not _written(port_file) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    endpoint = f"localhost:{port_file.read_text().strip()}"
    flags = ["--runner", "PortableRunner", "--job_endpoint", endpoint]
    try:
        yield process, (*flags, "--environment_type", "LOOPBACK")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Flags that name a job service."""
    with job_service(tmp_path_factory.mktemp("service") / "port") as (_, flags):
        yield flags


def _written(path):
    return path.exists() and path.read_text().strip()


def test_portable_runner_gives_the_rows_of_the_one_in_this_process(
    runner, tmp_path, model_dir, capsys
):
    manifest = write_manifest(tmp_path / "data")
    flags = ("--rows_per_unit", "6", "--device", "cpu", "--precision", "fp32")
    assert run(manifest, tmp_path / "here", model_dir, *flags) == 0
    assert run(manifest, tmp_path / "there", model_dir, *flags, *runner) == 0
    assert "threads    torch" not in capsys.readouterr().out.partition("output")[2]
    assert (tmp_path / "there" / "_SUCCESS").exists()
    assert_same(embeddings(tmp_path / "there"), embeddings(tmp_path / "here"))
    assert reasons(tmp_path / "there") == reasons(tmp_path / "here")
    found = _kept(tmp_path, "there", *runner, "--temp_location", str(tmp_path / "temp"))
    assert found and found == _kept(tmp_path, "here")


def _kept(root, name, *flags):
    argv = ["filter", "--input", str(root / name), "--output", str(root / f"kept-{name}")]
    where = ("--where", "source_row % 2 = 0", "--top_fraction", "0.7")
    assert cli.main([*argv, *where, *flags]) == 0
    return ds.dataset(root / f"kept-{name}" / "embeddings").to_table()["uid"].to_pylist()


def test_job_takes_longer_than_an_answer_may_and_ends_in_a_sentence_with_its_service(
    tmp_path, model_dir
):
    manifest, output = write_manifest(tmp_path / "data", rows=400), tmp_path / "out"
    with job_service(tmp_path / "port") as (service, flags):
        names = ("--manifest", manifest, "--output", output, "--model", model_dir)
        rest = (
            "--rows_per_unit",
            "4",
            "--batch_size",
            "1",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            *flags,
        )
        launcher = forked.Forked(
            [sys.executable, "-m", "pipelines.embed", *map(str, names), *rest, *ANSWER],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while launcher.poll() is None and not list(output.glob("embeddings/*.parquet")):
            time.sleep(0.02)
        time.sleep(1.2)
        service.kill()
        said = launcher.communicate(timeout=30)[1]
    assert launcher.returncode == 1
    (told,) = [line for line in said.splitlines() if "rows/s" not in line]
    assert told.startswith("clip-beam embed: the job service does not answer any more (UNAVAILABLE")
    assert not (output / "_RUNNING").exists()
