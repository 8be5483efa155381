"""How a run on this machine is cut into slices, fed by threads, and leaves nothing behind."""

import os
import tempfile
import threading

import pytest
from test_embed import embeddings, run, write_manifest

from clip_core.encoding import encode_pairs
from pipelines import embed
from pipelines.encode import ClipHandler
from pipelines.manifest import Columns
from pipelines.records import Unit


@pytest.fixture
def manifest(tmp_path):
    return write_manifest(tmp_path / "data")


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_stays_in_the_scratch_directory(manifest, tmp_path, model_dir, monkeypatch, broken):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    if broken:
        monkeypatch.setattr("pipelines.write.write_unit", lambda *_: os.stat("/not/there"))
    assert run(manifest, tmp_path / "out", model_dir) == int(broken)
    assert not list((tmp_path / "scratch").iterdir())


def test_gpu_is_fed_by_two_threads_with_a_unit_each(
    manifest, tmp_path, model_dir, capsys, monkeypatch
):
    """Batches of one thread wait here until the other's one is there, too, as they could not alone."""
    monkeypatch.setattr(ClipHandler, "on_gpu", True)
    monkeypatch.setattr(embed, "SLICE_ROWS", 10)
    together = threading.Barrier(2, timeout=20)

    def waiting(*arguments):
        together.wait()
        return encode_pairs(*arguments)

    monkeypatch.setattr("pipelines.encode.encode_pairs", waiting)
    assert run(manifest, tmp_path / "out", model_dir, "--rows_per_unit", "10") == 0
    assert embeddings(tmp_path / "out").num_rows == 16
    said = capsys.readouterr().out
    assert "over all of them" in said and "of it" not in said  # threads' times exceed the wall


def test_slices_are_bounded_by_rows_and_tars_by_bytes():
    def unit(rows, size=0):
        return Unit(str(rows), "m", "jsonl", Columns(), "/", 0, rows, manifest_bytes=size)

    half = embed.SLICE_ROWS // 2
    large = embed.SLICE_ROWS * embed.TAR_BYTES_PER_ROW
    units = [unit(half), unit(half), unit(1), unit(None, large), unit(None, 10), unit(2)]
    assert [[u.rows for u in group] for group in embed.slices(units, embed.SLICE_ROWS)] == [
        [half, half],
        [1, None],
        [None, 2],
    ]
    assert list(embed.slices([], embed.SLICE_ROWS)) == []
