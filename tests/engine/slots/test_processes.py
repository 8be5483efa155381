"""Slots that are processes, with work that needs neither torch nor Beam."""

import os
import queue
import signal
import subprocess
import sys
import time

import pytest

from bench.launched import is_alive
from making import ROOT
from pipelines.engine.slots import engines
from pipelines.engine.slots.board import Patience
from pipelines.engine.slots.choice import EngineChoice, Share
from pipelines.engine.slots.messages import Dead, Task
from pipelines.engine.slots.processes import Processes
from pipelines.engine.slots.supervisor import SlotsFailedError, Supervisor
from pipelines.engine.slots.work import EachItem
from slot_work import act, describe


def run(items, slots=2, gpus=(), **settings):
    work = [Task(((f"item-{n}", item),)) for n, item in enumerate(items)]
    engine, results = Processes(EachItem(act, describe), 1, gpus), {}

    def done(seat, name, result):
        results[name] = result

    Supervisor(engine, slots, work, done, **settings).run()
    return [results[f"item-{n}"] for n in range(len(items))]


def test_items_are_done_by_several_processes_even_if_one_dies(tmp_path):
    items = [("value", 1), ("die once", str(tmp_path / "dead")), ("value", 3), ("value", 4)]
    assert run(items) == [1, str(tmp_path / "dead"), 3, 4]


def test_each_slot_has_its_gpu_and_a_session_of_its_own():
    found = run([("environment", "CUDA_VISIBLE_DEVICES")] * 6, gpus=("3", "5"))
    assert {gpu for gpu, _, _ in found} <= {"3", "5"}
    assert all(process == session != os.getpid() for _, process, session in found)


@pytest.mark.parametrize(
    ("asked", "tasks", "gpus", "share"),
    [
        (5, 2, (), Share(2, 3)),  # no slot without a task, and none with less than it could have
        (None, 9, (), Share(1, 6)),
        (None, 9, ("3", "5"), Share(2, 3)),
        (8, 9, (), Share(8, 1)),
    ],
)
def test_slots_share_the_cores_and_none_is_idle(asked, tasks, gpus, share, monkeypatch):
    monkeypatch.setattr(engines, "usable_cores", lambda: 6)
    choice = EngineChoice("processes", asked)
    with engines.started(choice, EachItem(act, describe), tasks, gpus) as (engine, found):
        assert found == share and engine.cores == share.cores


def test_death_is_told_with_the_last_line_that_it_said():
    with pytest.raises(SlotsFailedError, match="ended with status 3: a library gave up"):
        run([("exit", "")], slots=1)


def test_error_is_told_in_its_words():
    with pytest.raises(SlotsFailedError, match="it failed: no such thing"):
        run([("raise", "no such thing")], slots=1)


def wait_for(path):
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(path.read_text())


def is_gone(process, within):
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not is_alive(process):
            return True
        time.sleep(0.02)
    return False


LAUNCHER = """
import sys
sys.path[:0] = sys.argv[3:]
from pipelines.engine.slots.messages import Task
from pipelines.engine.slots.processes import Processes
from pipelines.engine.slots.supervisor import Supervisor
from pipelines.engine.slots.work import EachItem
from slot_work import act, describe
work = [Task((("item", (sys.argv[2], sys.argv[1])),))]
Supervisor(Processes(EachItem(act, describe), 1), 1, work, print).run()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for Linux")
@pytest.mark.parametrize("how", ["hold", "hold with Python's lock"])
def test_slots_end_with_their_launcher(tmp_path, how):
    held = tmp_path / "held"
    support = [str(ROOT / "tests" / "support"), str(ROOT)]
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(held), how, *support])
    slot = wait_for(held)
    for number in (signal.SIGTERM, signal.SIGINT):  # the launcher decides, and not a whole group
        os.kill(slot, number)
    assert not is_gone(slot, within=0.3)
    launcher.kill()
    launcher.wait()
    assert is_gone(slot, within=5)


@pytest.mark.parametrize("how", ["hold", "hold with Python's lock"])
def test_slot_that_hangs_is_ended(how):
    patience = Patience(report=0.2, kill=0.5)
    with pytest.raises(SlotsFailedError, match="finished nothing for"):
        run([(how, os.devnull)], slots=1, patience=patience)


def test_messages_to_a_dead_slot_are_dropped():
    inbox = queue.SimpleQueue()
    slot = Processes(EachItem(act, describe), 1).start(0, inbox)
    slot.kill()
    while not isinstance(inbox.get(timeout=60)[1], Dead):
        pass
    slot.send(Task(()))
