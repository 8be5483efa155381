import random
from collections import Counter

import pytest

from pipelines.engine.slots import supervisor as supervising
from pipelines.engine.slots.board import Patience
from pipelines.engine.slots.messages import (
    Ask,
    Beat,
    Begun,
    Dead,
    Done,
    Ended,
    Failed,
    Give,
    Go,
    Ready,
    Started,
    Stop,
    Task,
)
from pipelines.engine.slots.supervisor import SlotsFailedError, Supervisor


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch):
    monkeypatch.setattr(supervising, "TICK_S", 0.01)


class Slot:
    """A slot that lives in the supervisor's own thread: it reacts to what it is sent."""

    def __init__(self, engine, inbox):
        self.engine, self.inbox = engine, inbox
        self.held, self.isolated, self.is_dead, self.log = [], False, False, []

    def tell(self, *messages):
        for message in messages:
            if not self.is_dead:
                self.is_dead = isinstance(message, Dead)
                self.inbox.put((self, message))

    def send(self, message):
        if isinstance(message, Go):
            self.isolated = message.isolated
            self.engine.goes += 1
            self.tell(Dead("killed") if self.engine.goes == self.engine.dies_at_go else Ask(0))
        elif isinstance(message, Stop):
            self.tell(Dead("stopped"))
        elif isinstance(message, Give):
            self.given(message.task)

    def kill(self):
        self.tell(Dead("killed"))

    def given(self, task):
        self.held += task.items if task else ()
        self.log.append(len(self.held))
        if task and len(self.held) <= self.engine.ahead:
            self.tell(Ask(len(self.held)))
        elif self.held:
            self.work()
        else:
            self.tell(Ended({"encode": 1.0}))

    def work(self):
        name, item = self.held[0]
        self.engine.tries[name] += 1
        self.engine.isolated[name] += self.isolated
        fault = self.engine.fault(self, name)
        if fault == "hangs":
            return
        if fault:
            self.tell(*fault)
            return
        self.held.pop(0)
        self.tell(Begun(name), Done(name, item), Ask(len(self.held)))


class Slots:
    """Starts such slots.

    Args:
        fault: returns what a slot says instead of working on an item; None for nothing.
        ahead: items that a slot holds beside the one it works on.
        birth: what each new slot says first, in turn.
        dies_at_go: which of the times that a slot is sent to work it dies before it asks.
    """

    slot = Slot

    def __init__(self, fault=lambda slot, name: None, ahead=0, birth=(), dies_at_go=None):
        self.fault, self.ahead, self.birth = fault, ahead, list(birth)
        self.goes, self.dies_at_go = 0, dies_at_go
        self.slots, self.tries, self.isolated = [], Counter(), Counter()

    def start(self, number, inbox):
        slot = self.slot(self, inbox)
        self.slots.append(slot)
        slot.tell(*(self.birth.pop(0) if self.birth else (Started("here"), Ready())))
        return slot


def tasks(count):
    return [Task(((f"unit-{number}", number),)) for number in range(count)]


def run(engine, slots, work, **settings):
    """Returns the supervisor and what it was told done, in order."""
    done = []
    supervisor = Supervisor(engine, slots, work, lambda seat, *what: done.append(what), **settings)
    supervisor.run()
    return supervisor, done


def dies(names, times=99, unless_isolated=False, what=None):
    """A fault of the first slots that work on some items."""
    left, what = dict.fromkeys(names, times), what or (Dead("its process was ended"),)

    def fault(slot, name):
        if name not in left or not left[name] or (unless_isolated and slot.isolated):
            return None
        left[name] -= 1
        return what

    return fault


@pytest.mark.parametrize(("slots", "items"), [(1, 5), (2, 5), (3, 2), (2, 0)])
def test_every_item_is_done_once(slots, items):
    engine = Slots()
    _, done = run(engine, slots, tasks(items))
    assert sorted(done) == [(f"unit-{n}", n) for n in range(items)]
    assert set(engine.tries.values()) <= {1} and len(engine.slots) == min(slots, items)
    assert all(slot.is_dead for slot in engine.slots)


@pytest.mark.parametrize(("slots", "items", "most"), [(3, 4, 2), (3, 9, 4), (2, 40, 4)])
def test_no_slot_takes_all_that_is_left(slots, items, most):
    engine = Slots(ahead=3)
    run(engine, slots, tasks(items))
    assert max(max(slot.log, default=0) for slot in engine.slots) <= most


def test_items_that_belong_together_are_given_together():
    work = [Task((("a", 1), ("b", 2))), Task((("c", 3),))]
    engine = Slots()
    _, done = run(engine, 2, work)
    assert sorted(done) == [("a", 1), ("b", 2), ("c", 3)]
    assert 2 in engine.slots[0].log


def test_what_a_dead_slot_held_is_tried_alone():
    engine = Slots(dies(["unit-2"], times=1), ahead=3)
    _, done = run(engine, 1, tasks(6))
    assert len(done) == 6 and engine.tries["unit-2"] == 2
    assert len(engine.slots) == 2


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("nth", range(1, 9))
def test_slot_that_dies_before_it_asks_takes_no_item_along(nth, own):
    """Its death may come when it was to try an item alone."""
    engine = Slots(dies(["unit-2"], 1, what=(Dead("killed", own),)), ahead=2, dies_at_go=nth)
    _, done = run(engine, 2, tasks(6))
    assert sorted(done) == [(f"unit-{number}", number) for number in range(6)]


class Faltering(Slot):
    """A slot that may be gone before whatever it would tell next."""

    def tell(self, *messages):
        for message in messages:
            super().tell(self.engine.instead_of(message))


class FalteringSlots(Slots):
    """Starts such slots, of which only so many die that no item is set aside."""

    slot = Faltering

    def __init__(self, seed):
        self._random = random.Random(seed)
        self._own, self._lost = 2, self._random.randint(0, 12)
        super().__init__(ahead=self._random.randint(0, 3))

    def instead_of(self, message):
        if isinstance(message, Dead) or self._random.random() > 0.1:
            return message
        if self._own and self._random.random() < 0.3:
            self._own -= 1
            return Dead("gone")
        self._lost -= self._lost > 0
        return Dead("lost", own=False) if self._lost else message


@pytest.mark.parametrize("seed", range(100))
def test_no_item_is_lost_whenever_slots_die(seed):
    items = seed % 7
    _, done = run(FalteringSlots(seed), 1 + seed % 3, tasks(items))
    assert sorted(done) == [(f"unit-{number}", number) for number in range(items)]


def test_item_that_kills_without_isolation_is_isolated_after_three_deaths_alone():
    engine = Slots(dies(["unit-1"], unless_isolated=True))
    _, done = run(engine, 1, tasks(4))
    assert len(done) == 4 and engine.tries["unit-1"] == 4
    assert engine.isolated == Counter({"unit-1": 1})


def test_item_that_always_kills_is_set_aside_and_named_after_all_others_are_done():
    engine, done = Slots(dies(["unit-1"])), []
    supervisor = Supervisor(engine, 2, tasks(9), lambda seat, *what: done.append(what))
    with pytest.raises(
        SlotsFailedError, match="unit-1 ended 4 slots .* isolated decoding: its pro"
    ):
        supervisor.run()
    assert sorted(name for name, _ in done) == [f"unit-{n}" for n in range(9) if n != 1]


def test_error_of_an_item_is_named_with_its_words_and_not_tried_with_isolation():
    words = (Failed("rows are missing", False, "Traceback"), Dead("status 1"))
    engine = Slots(dies(["unit-0"], what=words))
    supervisor = Supervisor(engine, 1, tasks(3), lambda *what: None)
    with pytest.raises(
        SlotsFailedError, match="unit-0 ended 3 slots .*: rows are missing"
    ) as error:
        supervisor.run()
    assert error.value.told == "Traceback" and not engine.isolated.total()


def test_error_that_is_the_same_everywhere_ends_the_work_at_once():
    engine = Slots(dies(["unit-0"], what=(Failed("the disk is full", True), Dead("status 1"))))
    supervisor = Supervisor(engine, 2, tasks(9), lambda *what: None)
    with pytest.raises(SlotsFailedError, match="^the disk is full$"):
        supervisor.run()
    assert engine.tries["unit-0"] == 1 and all(slot.is_dead for slot in engine.slots)


def test_items_that_all_kill_end_the_work_soon():
    engine = Slots(lambda slot, name: (Dead("its process was ended"),))
    supervisor = Supervisor(engine, 2, tasks(500), lambda *what: None)
    with pytest.raises(SlotsFailedError, match="unit-"):
        supervisor.run()
    assert sum(engine.tries.values()) < 40


def test_lost_machine_is_no_fault_of_what_it_held_until_the_tenth_time():
    lost = (Dead("its node has died", own=False),)
    engine = Slots(dies(["unit-0"], times=9, what=lost))
    _, done = run(engine, 1, tasks(2))
    assert len(done) == 2 and engine.tries["unit-0"] == 10
    engine = Slots(dies(["unit-0"], times=1000, what=lost))
    with pytest.raises(SlotsFailedError, match="unit-0"):
        run(engine, 1, tasks(2))


def test_slots_that_die_before_they_are_ready_end_the_work_with_their_words():
    birth = [(Started("here"), Failed("no such model", True), Dead("status 1"))]
    with pytest.raises(SlotsFailedError, match="no such model"):
        run(Slots(birth=birth), 1, tasks(2))
    birth = [(Started("here"), Dead("status 1: Killed"))] * 3
    with pytest.raises(SlotsFailedError, match="no slot becomes ready: status 1: Killed"):
        run(Slots(birth=birth), 2, tasks(2))
    engine = Slots(birth=birth[:2])
    assert len(run(engine, 1, tasks(2))[1]) == 2 and len(engine.slots) == 3


def test_lost_machines_of_slots_that_are_not_ready_do_not_count():
    birth = [(Dead("its node has died", own=False),)] * 5
    assert len(run(Slots(birth=birth), 1, tasks(2))[1]) == 2


class Clock:
    """Goes on by so many seconds each time it is asked."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def test_slot_that_finishes_nothing_is_reported_and_then_ended():
    said, hung = [], iter(["hangs"])
    engine = Slots(lambda slot, name: next(hung, None) if name == "unit-0" else None)
    supervisor, done = run(engine, 1, tasks(2), patience=Patience(said.append), clock=Clock(40.0))
    assert len(done) == 2 and len(engine.slots) == 2
    assert said[0].endswith("it works on unit-0")
    assert said[1].startswith("slot 0 has died: it finished nothing for") and len(said) == 2


def test_slot_that_does_not_become_ready_in_time_is_ended():
    with pytest.raises(SlotsFailedError, match="no slot becomes ready: it was not ready after"):
        run(Slots(birth=[(Started("here"),)] * 3), 1, tasks(1), clock=Clock(500.0))


def test_slot_whose_start_takes_long_is_waited_for():
    supervisor = Supervisor(Slots(birth=[()]), 1, tasks(1), print, clock=Clock(5000.0))
    supervisor._start(0)
    for _ in range(3):  # a cluster may have no room for now
        supervisor._step()
    assert len(supervisor.board.seats) == 1


def test_board_counts_rows_of_items_that_are_not_done_yet():
    engine = Slots()
    supervisor = Supervisor(engine, 1, tasks(1), lambda *what: None)
    supervisor._start(0)
    (seat,) = supervisor.board.seats.values()
    supervisor._beat(seat, Beat(70))
    supervisor.board.note_done(seat, 50, {"not_found": 1})
    assert (supervisor.board.rows, supervisor.board.rejects["not_found"]) == (70, 1)
    assert "slot 0" in supervisor.board.lines()[0]
    supervisor.run()
    assert supervisor.board.seconds == {"encode": 2.0}  # of both slots
