"""Slots that are actors of Ray; one cluster for the tests of this file."""

import os

import pytest

from pipelines.engine.slots.choice import EngineChoice
from pipelines.engine.slots.engines import started
from pipelines.engine.slots.messages import Task
from pipelines.engine.slots.supervisor import SlotsFailedError, Supervisor
from pipelines.engine.slots.work import EachItem
from slot_work import act, describe

pytest.importorskip("ray")


def run(items, engine, slots):
    results = {}

    def done(seat, name, result):
        results[name] = result

    work = [Task(((f"item-{n}", item),)) for n, item in enumerate(items)]
    Supervisor(engine, slots, work, done).run()
    return [results[f"item-{n}"] for n in range(len(items))]


def test_items_are_done_by_actors_even_if_one_dies(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SECRET_OF_MINE", "hush")
    choice = EngineChoice("ray", 2)
    with started(choice, EachItem(act, describe), 9) as (engine, share):
        assert share.slots == 2 and share.cores >= 1
        items = [("value", 1), ("die once", str(tmp_path / "dead")), ("value", 3)]
        items += [("environment", "OMP_NUM_THREADS"), ("value", 5)]
        one, dead, three, (omp, process, _), five = run(items, engine, share.slots)
        assert (one, dead, three, five) == (1, str(tmp_path / "dead"), 3, 5)
        assert omp is None and process != os.getpid()
        with pytest.raises(SlotsFailedError, match="it failed: no such thing"):
            run([("raise", "no such thing")], engine, 1)
    assert capsys.readouterr().out == ""


def test_cluster_that_is_not_there_is_one_sentence():
    choice = EngineChoice("ray", 1, "127.0.0.1:1")
    with (
        pytest.raises(OSError, match="no Ray cluster can be used at 127.0.0.1:1"),
        started(choice, EachItem(act, describe), 1),
    ):
        pass
