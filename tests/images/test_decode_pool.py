import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from clip_core.preprocess import Preprocess
from making import ROOT, encode_image, make_image
from misbehaving import LIMITS, PREPROCESS, misbehaving
from pipelines import embed
from pipelines.images import decode_pool
from pipelines.images.decode import decode_image
from pipelines.images.decode_pool import DecodeWorkers, WorkerLostError, decode_isolated
from pipelines.records import RowFault
from schemas.rejects import Reason


@pytest.fixture(scope="module")
def workers():
    found = DecodeWorkers([PREPROCESS], LIMITS, misbehaving)
    yield found
    found.close()


def fault_of(workers, data):
    with pytest.raises(RowFault) as fault:
        workers.decode(data)
    assert fault.value.stage == "decode"
    return fault.value.reason, fault.value.detail


SECRETS = ("AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN", "HTTPS_PROXY",
           "PGPASSWORD", "MY_COMPANYS_THING", "PYTHONSTARTUP", "PATH_TO_KEY", "OMP")  # fmt: skip


def test_environment_of_workers_holds_only_what_is_known_to_be_harmless(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "pl4nted")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = decode_pool.worker_environment()
    assert "pl4nted" not in found.values()
    assert found["PATH"] == os.environ["PATH"] and found["OMP_NUM_THREADS"] == "1"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_running_worker_has_no_keys(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pl4nted")
    own = DecodeWorkers([PREPROCESS], LIMITS)
    own.decode(encode_image(make_image(), "PNG"))
    (worker,) = own._all
    environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes()
    own.close()
    assert b"PATH=" in environment and b"pl4nted" not in environment


def test_pixels_are_those_of_the_decoder(workers):
    data = encode_image(make_image(90, 50), "JPEG")
    found, expected = workers.decode(data), decode_image(data, [PREPROCESS], LIMITS)
    assert (found.pixels[0] == expected.pixels[0]).all() and found.pixels[0].dtype == np.uint8
    assert (found.original_width, found.original_height) == (90, 50)


def test_faults_of_the_image_arrive_as_they_are(workers):
    with pytest.raises(RowFault) as expected:
        decode_image(b"<html>", [PREPROCESS], LIMITS)
    assert fault_of(workers, b"<html>") == (expected.value.reason, expected.value.detail)


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"crash", Reason.DECODE_FAILED, "the decoder died of SIGSEGV"),
        (b"exit", Reason.DECODE_FAILED, "the decoder ended with status 7"),
        (b"hang", Reason.DECODE_TIMEOUT, "took longer than 1 s"),
        (b"raise", Reason.DECODE_FAILED, "the decoder ended with status 1"),
        (b"flood", Reason.DECODE_FAILED, "no memory"),
        (b"lie", Reason.DECODE_FAILED, "the decoder gave no sensible answer"),
    ],
)
def test_decoder_that_misbehaves_costs_one_image(workers, data, reason, detail):
    assert fault_of(workers, data) == (reason, detail)
    assert workers.decode(encode_image(make_image())).original_width == 80


def test_workers_are_reused_and_replaced_when_they_die(workers):
    first = workers.decode(b"pid").original_width
    assert workers.decode(b"pid").original_width == first
    fault_of(workers, b"exit")
    second = workers.decode(b"pid").original_width
    assert second != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_idle_worker_that_was_killed_is_replaced_and_no_image_blamed(workers):
    worker = workers.decode(b"pid").original_width
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)  # dead, and its status yet to be read
    assert workers.decode(encode_image(make_image())).original_width == 80


def test_workers_import_neither_torch_nor_beam(workers):
    assert workers.decode(b"modules").original_width == 0


def test_time_limit_of_an_image_does_not_have_to_last_for_imports():
    fresh = DecodeWorkers([PREPROCESS], LIMITS, misbehaving)
    assert fresh.decode(b"formats").original_width > 20
    fresh.close()


def test_neighbours_of_a_crash_in_other_threads_are_kept(workers):
    picture = encode_image(make_image())
    jobs = [b"crash", picture, b"exit", picture, picture, b"<html>"]
    found = [None] * len(jobs)

    def work(number):
        try:
            found[number] = workers.decode(jobs[number]).original_width
        except RowFault as fault:
            found[number] = fault.reason.value

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["decode_failed", 80, "decode_failed", 80, 80, "not_an_image"]


def test_closing_ends_the_processes():
    mine = DecodeWorkers([PREPROCESS], LIMITS, misbehaving)
    pid = mine.decode(b"pid").original_width
    mine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_machine_that_starts_no_process_is_no_fault_of_a_row(monkeypatch):
    monkeypatch.setattr(decode_pool, "_CODE", "import sys; sys.exit(3)  # {path} {fd}")
    with pytest.raises(WorkerLostError, match="could not start: the decoder ended with status 3"):
        DecodeWorkers([PREPROCESS], LIMITS).decode(b"")


def test_workers_end_with_the_process_that_started_them():
    code = (
        "import os, sys; sys.path.insert(0, 'tests/support')\n"
        "from misbehaving import *\n"
        "from pipelines.images.decode_pool import DecodeWorkers\n"
        "print(DecodeWorkers([PREPROCESS], LIMITS, misbehaving).decode(b'pid').original_width)\n"
        "sys.stdout.flush(); os._exit(9)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(int(found.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker outlives its parent")


def test_isolated_job_gives_what_the_other_gives(tmp_path, model_dir):
    pictures = [encode_image(make_image(seed=n)) for n in range(6)]
    pictures[2], pictures[4] = b"<html>", pictures[4][:60]
    table = pa.table({"image_bytes": pictures, "text": ["a star"] * 6})
    pq.write_table(table, tmp_path / "m.parquet")
    for name, flags in (("a", []), ("b", ["--isolate_decoding"])):
        flags += ["--manifest", str(tmp_path / "m.parquet"), "--model", str(model_dir)]
        assert embed.main([*flags, "--output", str(tmp_path / name)]) == 0
    for part in ("embeddings", "rejects"):
        one, two = (ds.dataset(tmp_path / name / part).to_table() for name in "ab")
        assert one.equals(two)
    decode_pool.shared_workers.cache_clear()


def test_processes_are_shared_by_the_pipelines_of_a_run():
    data = encode_image(make_image())
    decode_isolated(data, [PREPROCESS], LIMITS)
    workers = decode_pool.shared_workers((PREPROCESS,), LIMITS)
    assert (
        workers is decode_pool.shared_workers((Preprocess(32),), LIMITS) and len(workers._all) == 1
    )
    workers.close()
