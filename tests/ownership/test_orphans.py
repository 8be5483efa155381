"""Workers whose launcher is gone, and that are slow: none of their files is the next run's."""

import json
import threading
from collections import Counter

import fsspec
import pyarrow.parquet as pq
import pytest

from embedding_runs import run, write_manifest
from pipelines.output import unit_writer

FLAGS = ("--device", "cpu", "--precision", "fp32", "--rows_per_unit")
SAME, OTHER = "5", "20"  # rows a unit: the orphan waits with the second unit


class Orphan(threading.Thread):
    """A run that has looked at its lock, and waits before it gives a unit's files their names."""

    def __init__(self, monkeypatch, *arguments):
        super().__init__()
        self._arguments, self.run_id = arguments, None
        self.waits, self.go_on = threading.Event(), threading.Event()
        self.went_on = threading.Event()
        publish = unit_writer.UnitWriter.publish

        def slow(writer, check):
            self.run_id = self.run_id or writer._layout.run
            if writer._layout.run != self.run_id:
                self.at_publish()
                return publish(writer, check)
            if self.waits.is_set() or len(writer._reasons) < 2:
                return publish(writer, check)
            self.waits.set()  # with one unit, which has rejects
            assert self.go_on.wait(60)
            try:
                publish(writer, check)
            finally:
                self.went_on.set()

        self.at_publish = lambda: None
        monkeypatch.setattr(unit_writer.UnitWriter, "publish", slow)

    def run(self):
        self.status = run(*self._arguments)

    def end(self):
        self.go_on.set()
        assert self.went_on.wait(60)


def decoders(output):
    """Counts the files of each table by how their run decoded."""
    files, root = fsspec.core.url_to_fs(output)
    files.invalidate_cache()
    found = Counter()
    for path in files.glob(f"{root}/*/*.parquet"):
        with files.open(path) as file:
            about = pq.read_schema(file).metadata[b"clip_beam.fingerprint"]
        found[path.split("/")[-2], json.loads(about)["decode"]] += 1
    return found


@pytest.mark.parametrize(
    ("scheme", "units", "when"),
    [
        ("file", SAME, "after it"),
        ("file", OTHER, "meanwhile"),
        ("s3", SAME, "meanwhile"),
        ("s3", OTHER, "after it"),
        ("gs", OTHER, "after it"),
    ],
)
def test_slow_orphan_leaves_nothing_in_the_next_run(
    scheme, units, when, stores, tmp_path, model_dir, monkeypatch
):
    manifest = write_manifest(tmp_path / "data")
    root = str(tmp_path) if scheme == "file" else stores[scheme].root
    output = f"{root}/orphan-{units}"
    orphan = Orphan(monkeypatch, manifest, output, model_dir, *FLAGS, SAME)
    orphan.start()
    assert orphan.waits.wait(60)
    files, path = fsspec.core.url_to_fs(output)
    files.rm_file(f"{path}/_RUNNING")  # its launcher was told to end
    if when == "meanwhile":
        orphan.at_publish = orphan.end
    try:
        flags = (*FLAGS, units, "--decode", "fast", "--overwrite")
        assert run(manifest, output, model_dir, *flags) == 0
        whole = decoders(output)
    finally:
        orphan.end()
    orphan.join(60)
    assert orphan.status == 1 and decoders(output) == whole
    assert {decoder for _, decoder in whole} == {"fast"}
    assert not files.glob(f"{path}/*/.partial-*") and files.exists(f"{path}/_SUCCESS")
