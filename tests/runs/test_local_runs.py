"""How a run on this machine is cut into bundles, fed by threads, and leaves nothing behind."""

import tempfile
import threading

import pytest

from clip_core.inference.encoding import encode_pairs
from embedding_runs import embeddings, run, write_manifest
from pipelines.encoding.handler import ClipHandler
from pipelines.engine.cores import usable_cores
from pipelines.storage import partial_files


@pytest.fixture
def manifest(tmp_path):
    return write_manifest(tmp_path / "data")


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_stays_behind(manifest, tmp_path, model_dir, monkeypatch, broken):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    if broken:

        def full(self, *looks):
            raise OSError("no space left on the disk")

        monkeypatch.setattr(partial_files.PartialFile, "publish", full)
    assert run(manifest, tmp_path / "out", model_dir) == int(broken)
    assert not list((tmp_path / "scratch").iterdir())
    assert not list((tmp_path / "out").rglob(".*")) and not (tmp_path / "out" / "_RUNNING").exists()


def test_gpu_is_fed_by_two_threads_with_a_unit_each(
    manifest, tmp_path, model_dir, capsys, monkeypatch
):
    """Batches of one thread wait here until the other's one is there, too, as they could not alone."""
    monkeypatch.setattr(ClipHandler, "on_gpu", True)
    together = threading.Barrier(2, timeout=20)

    def waiting(*arguments):
        together.wait()
        return encode_pairs(*arguments)

    monkeypatch.setattr("pipelines.encoding.handler.encode_pairs", waiting)
    assert run(manifest, tmp_path / "out", model_dir, "--rows_per_unit", "10") == 0
    assert embeddings(tmp_path / "out").num_rows == 16
    assert "workers    start" in capsys.readouterr().out


def test_processor_encodes_one_batch_at_a_time_where_torch_uses_its_cores(
    manifest, tmp_path, model_dir, monkeypatch
):
    monkeypatch.setattr("torch.get_num_threads", usable_cores)
    busy = threading.Lock()

    def alone(*arguments):
        assert busy.acquire(blocking=False)
        try:
            return encode_pairs(*arguments)
        finally:
            busy.release()

    monkeypatch.setattr("pipelines.encoding.handler.encode_pairs", alone)
    assert run(manifest, tmp_path / "out", model_dir, "--rows_per_unit", "4") == 0


def test_partials_of_other_runs_go_and_those_of_this_run_stay(tmp_path):
    for run_id in ("one", "other"):
        partial_files.PartialFile(str(tmp_path / "a.parquet"), run_id)
    (tmp_path / "mine.txt").write_text("kept")
    partial_files.remove_partials(str(tmp_path), "one")
    left = sorted(path.name.rpartition("-")[0] or path.name for path in tmp_path.iterdir())
    assert left == [".partial-one", "mine.txt"]
