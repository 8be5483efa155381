"""Commands ask a store for each file once in each pass, and for several files at once."""

from collections import Counter

import numpy as np
import pytest

from other_stores import asked_store
from pipelines import export, filter, report, search
from pipelines.engine.per_file import SIDE_BY_SIDE
from pipelines.output.parquet import FILES_WRITTEN
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
    store.server.set(latency=0.01)
    assert main(["--input", f"{store.root}/run", *flags]) == 0
    told = Counter(request.split("?")[0] for request in store.asked("GET", "unit-"))
    assert len(told) >= FILES
    return max(told.values())


def test_filter_asks_once_a_pass_and_files_side_by_side(store):
    output = ("--output", f"{store.root}/kept")
    # Their rows are counted, the share is found in two passes, rows are looked at, and written;
    # the first file tells the columns.
    assert run(store, filter.main, "--top_fraction", "0.5", *output) <= 1 + 1 + 2 + 1 + 2
    assert FILES_WRITTEN <= store.server.counts.most <= SIDE_BY_SIDE
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
    assert store.server.counts.most >= FILES_WRITTEN
