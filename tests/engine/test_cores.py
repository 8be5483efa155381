import os
import subprocess
import sys

import pytest
import torch

from clip_core.openmp import BOUNDS, DECIDED_BY, bound_waiting
from pipelines.encoding.models import ModelSpec, load_models
from pipelines.engine import cores
from pipelines.engine.cores import threads_for, usable_cores

PLAIN = {name: value for name, value in os.environ.items() if name not in DECIDED_BY}


def python(code, **environment):
    run = subprocess.run(
        [sys.executable, "-c", code], env=PLAIN | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    "module", ["clip_core", "clip_core.tokenizer", "pipelines.cli", "pipelines.embed", "bench"]
    + ["pipelines.images.decode_worker", "pipelines.encoding.handler", "pipelines.report"],
)  # fmt: skip
def test_every_way_in_bounds_the_wait_before_torch_is_loaded(module):
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print(*map(os.environ.get, ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME')), flush=True)\n"
        "            os._exit(0)\n"  # which is asked for now, and takes seconds to load
        "sys.meta_path.insert(0, Watch())\n"
        f"import {module}, torch"
    )
    assert python(code) == " ".join(BOUNDS.values())


@pytest.mark.parametrize("name", DECIDED_BY)
def test_what_the_user_has_decided_stays(name):
    environment = {name: "7"}
    bound_waiting(environment)
    assert environment == {name: "7"}


def test_nothing_is_set_once_torch_is_loaded():
    assert python("import torch, os, clip_core; print('GOMP_SPINCOUNT' in os.environ)") == "False"


def test_small_models_get_one_thread_and_training_all_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "usable_cores", lambda: 6)
    assert (threads_for(2_300_000).torch, threads_for(150_000_000).torch) == (1, 6)
    assert threads_for(2_300_000, training=True).torch == 6
    assert (threads_for().decode, threads_for().fetch) == (6, 16)
    assert str(threads_for()) == "torch 1, decode 6, fetch 16 on 6 cores"


def test_the_users_number_of_threads_counts(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = threads_for(150_000_000)
    assert found.torch is None
    assert "torch 3 (OMP_NUM_THREADS)" in str(found)


def test_models_are_loaded_with_the_threads_they_gain_from():
    code = (
        "import torch\n"
        "from pipelines.encoding.models import ModelSpec, load_models\n"
        "loaded = load_models((ModelSpec('tiny'),))\n"
        "print(loaded.threads.torch, torch.get_num_threads())"
    )
    assert python(code, OMP_NUM_THREADS="") == "1 1"


def test_models_leave_the_users_number_of_threads_to_torch(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(torch, "set_num_threads", lambda count: pytest.fail("torch has its own"))
    assert load_models((ModelSpec("tiny"),)).threads.torch is None


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight cores, and files of control groups as they are given."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def make(groups, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


V1 = "4:memory:/job\n1:cpu,cpuacct:/job/step\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/on/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        (V1, {"cpu,cpuacct/job/cpu.cfs_quota_us": "250000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/job/step/cpu.cfs_quota_us": "-1", "cpu/job/step/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, 8),
    ],
)  # fmt: skip
def test_quotas_of_control_groups_count(machine, groups, files, expected):
    assert usable_cores(machine(groups, **files)) == expected


def test_pinned_cores_count(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(tmp_path) == 1


def test_torch_is_told_what_was_decided(monkeypatch):
    from clip_core import load
    from pipelines.encoding.models import use_threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        assert use_threads([load("tiny")]).torch == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
