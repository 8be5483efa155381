"""A store is asked for each file once in each pass, and for several files at once."""

import re
import tempfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from making import encode_image, make_image
from other_stores import asked_store
from pipelines import embed, export, filter, report, search
from pipelines.engine.per_file import SIDE_BY_SIDE
from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.manifests.units import ManifestChangedError, read_unit
from pipelines.storage import reading, writing
from pipelines.storage.partial_files import PartialFile
from scored_runs import write_scored

FILES = 20


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    units = [[{"uid": f"{3 * n + k:032x}", "similarity": n / 40 + k / 10} for k in range(3)]
             for n in range(FILES)]  # fmt: skip
    write_scored(folder, units)
    with asked_store(request.param) as store:
        store.upload(folder, "run")
        yield store


def run(store, main, *flags):
    """Runs a command; returns how often each file of the run was asked for."""
    store.forget()
    store.server.set(latency=0.02)
    assert main(["--input", f"{store.root}/run", *flags]) == 0
    told = Counter(request.split("?")[0] for request in store.asked("GET", "unit-"))
    assert len(told) >= FILES
    return max(told.values())


def test_filter_asks_once_a_pass_and_files_side_by_side(store):
    output = ("--output", f"{store.root}/kept")
    # Their rows are counted, the share is found in two passes, rows are looked at, and written;
    # the first file tells the columns.
    assert run(store, filter.main, "--top_fraction", "0.5", *output) <= 1 + 1 + 2 + 1 + 2
    assert 4 <= store.server.counts.most <= SIDE_BY_SIDE
    assert not store.asked("HEAD", "unit-")
    written = [path for path in store.server.objects._found if "/kept/" in path]
    assert len(store.asked("P", "")) == len(written) > FILES // 2


@pytest.mark.parametrize("main", [export.main, report.main, search.main])
def test_other_commands_read_each_file_once(store, main, monkeypatch):
    flags = {
        export.main: ("--format", "laion", "--output", f"{store.root}/laion"),
        report.main: ("--thumbnails", "0", "--output", f"{store.root}/report.html"),
        search.main: ("--text", "a circle"),
    }[main]
    if main is search.main:
        monkeypatch.setattr(search, "load_query_model", lambda *given: None)
        monkeypatch.setattr(search, "_embed", lambda *given: np.eye(4, dtype=np.float32)[:1])
    assert run(store, main, *flags) <= 1 + 1 + 1
    assert store.server.counts.most >= 4


LINE = '{"url": "a.jpg", "text": "a circle"}\n'


def test_small_manifest_is_one_request_a_unit(store, tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE * 3)
    pq.write_table(pa.table({"url": ["a.jpg"], "text": ["a"]}), tmp_path / "m.parquet")
    root = store.upload(tmp_path, "manifests")
    for name, requests in (("m.jsonl", 1), ("m.parquet", 1)):
        units = plan_units(ManifestRequest((f"{root}/{name}",), rows_per_unit=1)).units
        store.forget()
        for unit in units:
            assert len(list(read_unit(unit))) == 1
        assert len(store.server.log) == requests * len(units)


def test_changed_manifest_is_told(store, tmp_path):
    (tmp_path / "m.jsonl").write_text(LINE * 2)
    root = store.upload(tmp_path, "changed")
    (unit,) = plan_units(ManifestRequest((f"{root}/m.jsonl",))).units
    (tmp_path / "m.jsonl").write_text(LINE * 2 + "\n")
    store.upload(tmp_path, "changed")
    with pytest.raises(ManifestChangedError):
        list(read_unit(unit))


def test_parquet_manifests_are_planned_in_two_requests_each(store, tmp_path):
    for number in range(40):
        name = tmp_path / f"{number:02}.parquet"
        pq.write_table(pa.table({"url": ["a.jpg"], "text": ["a"]}), name)
    root = store.upload(tmp_path, "many")
    store.forget()
    store.server.set(latency=0.02)
    assert len(plan_units(ManifestRequest((f"{root}/*.parquet",))).units) == 40
    assert len(store.server.log) <= 2 * 40 + 5
    assert store.server.counts.most >= 4


def test_unit_of_a_new_output_is_one_request_and_a_look_at_the_lock(store, tmp_path, model_dir):
    (tmp_path / "i.jpg").write_bytes(encode_image(make_image(), "JPEG"))
    (tmp_path / "m.jsonl").write_text('{"url": "i.jpg", "text": "a circle"}\n' * 12)
    root, output = store.upload(tmp_path, "to-embed"), f"{store.root}/embedded"
    store.forget()
    argv = ["--manifest", f"{root}/m.jsonl", "--output", output, "--model", str(model_dir)]
    assert embed.main([*argv, "--rows_per_unit", "2"]) == 0
    asked = [one for one in store.server.log if re.search(r"m-[0-9a-f]+-0000\d", one)]
    footers = [one for one in asked if one.startswith("GET")]  # are read when the run is closed
    assert len(footers) == 6 and len(asked) == 12
    about_lock = [one for one in store.server.log if "_RUNNING" in one and "GET" in one]
    assert len(about_lock) <= 2 * 6 + 10


@pytest.mark.parametrize("opened", ["output", "unit"])
def test_what_waits_to_be_uploaded_has_no_name(store, tmp_path, monkeypatch, opened):
    """So nothing is left of a process that is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    uri = f"{store.root}/waits/{opened}"
    if opened == "output":
        with writing.open_output(uri) as file:
            file.write(b"whole")
            assert list(tmp_path.iterdir()) == []
    else:
        partial = PartialFile(uri, "run")
        partial.file.write(b"whole")
        assert list(tmp_path.iterdir()) == []
        partial.publish()
    assert reading.read_retried(uri, 10) == b"whole"
