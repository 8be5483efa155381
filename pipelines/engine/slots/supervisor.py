"""Gives items of work to slots that may die, whatever engine runs them, until each is done."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from pipelines.command_line import exits
from pipelines.engine.slots.blame import Blame, Verdict
from pipelines.engine.slots.board import Board, Patience, Seat, State
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
    Handle,
    Ready,
    Started,
    Stop,
    Task,
)

STILLBORN = 3  # slots that die in a row before they are ready
HOPELESS = 3  # items that are set aside in a row, with none done between them
TICK_S = 0.5
GRACE_S = 5.0


class SlotsFailedError(RuntimeError):
    """The work cannot go on, or has items that no slot survives: says which and why.

    Attributes:
        told: the traceback of a fault of this program, or "".
    """

    def __init__(self, message: str, told: str = "") -> None:
        super().__init__(message)
        self.told = told


class Engine(Protocol):
    """Starts slots."""

    def start(self, number: int, inbox: queue.SimpleQueue[Any]) -> Handle:
        """Starts a slot; its messages come to the inbox, each as (slot, message)."""


class Supervisor:
    """Runs tasks on slots.

    Args:
        engine: that starts the slots.
        slots: how many.
        tasks: the work.
        done: takes the name and the result of each item.
        patience: with slots that are silent.
        clock: tells seconds.

    Attributes:
        board: what is known of the slots.
    """

    def __init__(
        self,
        engine: Engine,
        slots: int,
        tasks: Iterable[Task],
        done: Callable[[Seat, str, Any], object],
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._slots, self._on_done = engine, slots, done
        self._patience, self._clock = patience or Patience(), clock
        self._inbox: queue.SimpleQueue[tuple[Handle, Any]] = queue.SimpleQueue()
        self._todo = deque(tasks)
        self._suspects: deque[tuple[str, Any]] = deque()
        self._left = {name for task in self._todo for name, _ in task.items}
        self._blame = Blame()
        self._stillborn = 0
        self._set_aside: dict[str, str] = {}
        self._in_a_row = 0
        self._told = ""
        self.board = Board()

    def run(self) -> None:
        """Returns when every item is done, and no slot lives any more.

        Raises:
            SlotsFailedError: if some cannot be, after all others are, or none can.
        """
        try:
            for number in range(min(self._slots, len(self._todo))):
                self._start(number)
            while self._left:
                self._step()
            self._hear_the_ends()
        finally:
            exits.calm()  # a signal is raised over and over until it has been heard
            self._stop()
        if self._set_aside:
            raise SlotsFailedError("; ".join(self._set_aside.values()), self._told)

    def _hear_the_ends(self) -> None:
        """Lets slots that have nothing left to do end their pipelines, and hears what they took."""
        until = self._clock() + GRACE_S
        while any(seat.state is State.WORKING for seat in self.board.seats.values()):
            if self._clock() > until:
                return
            self._step()

    def _step(self) -> None:
        with suppress(queue.Empty):
            slot, message = self._inbox.get(timeout=TICK_S)
            seat = self.board.seats.get(slot)
            if seat is not None:  # else it was given up before
                getattr(self, f"_{type(message).__name__.lower()}")(seat, message)
        for seat in list(self.board.seats.values()):
            if why := self._patience.is_over(seat, self._clock()):
                seat.slot.kill()
                self._dead(seat, Dead(f"it {why}"))

    def _start(self, number: int) -> None:
        slot = self._engine.start(number, self._inbox)
        self.board.seats[slot] = Seat(slot, number, self._clock())

    def _hear(self, seat: Seat) -> None:
        seat.heard, seat.is_reported = self._clock(), False

    def _started(self, seat: Seat, message: Started) -> None:
        seat.where, seat.state = message.where, State.LOADING
        self._hear(seat)

    def _ready(self, seat: Seat, message: Ready) -> None:
        self._stillborn = 0
        seat.state = State.IDLE
        self._feed()

    def _ended(self, seat: Seat, message: Ended) -> None:
        """The slot has no pipeline any more, so what it held is done. It waits, loaded, for what
        comes back from others."""
        self.board.note_time(message.about)
        if seat.given:
            raise SlotsFailedError(
                f"slot {seat.number} ended its work and left {min(seat.given)!r} unfinished; run "
                "again, and report this as a bug"
            )
        seat.state, seat.alone = State.IDLE, None
        self._feed()

    def _feed(self) -> None:
        """Sends idle slots to work: one of them to a suspect, while the others have other work."""
        for seat in self.board.seats.values():
            if seat.state is not State.IDLE:
                continue
            is_tried = any(other.alone for other in self.board.seats.values())
            if self._suspects and not (is_tried and self._todo):
                seat.alone = self._suspects.popleft()
            elif not self._todo:
                break
            seat.state = State.WORKING
            name = seat.alone[0] if seat.alone else ""
            seat.slot.send(Go(self._blame.is_isolated(name)))
        if self._left and all(seat.state is State.IDLE for seat in self.board.seats.values()):
            raise SlotsFailedError(
                f"no slot works on {min(self._left)!r}; run again, and report this as a bug"
            )

    def _ask(self, seat: Seat, message: Ask) -> None:
        """Gives a task ahead only while what the slot holds is at most its share of what is left:
        else the first to ask would take all."""
        task = None
        if seat.alone is not None:
            if seat.alone[0] in self._left and not seat.given:
                task = Task((seat.alone,))
        elif self._todo and message.held <= len(self._todo) // len(self.board.seats):
            task = self._todo.popleft()
        if task is not None:
            if not seat.given:
                self._hear(seat)
            seat.given.update(task.items)
        seat.slot.send(Give(task))

    def _begun(self, seat: Seat, message: Begun) -> None:
        self._hear(seat)

    def _beat(self, seat: Seat, message: Beat) -> None:
        seat.told_rows = message.rows
        self._hear(seat)

    def _done(self, seat: Seat, message: Done) -> None:
        self._hear(seat)
        self._left.discard(message.name)
        self._in_a_row = 0
        if seat.given.pop(message.name, None) is not None:
            self._on_done(seat, message.name, message.result)

    def _failed(self, seat: Seat, message: Failed) -> None:
        seat.fault = message
        if message.everywhere:
            raise SlotsFailedError(message.words, message.told)

    def _dead(self, seat: Seat, message: Dead) -> None:
        del self.board.seats[seat.slot]
        words = seat.fault.words if seat.fault else message.why
        if seat.state in (State.STARTING, State.LOADING) and message.own:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                told = seat.fault.told if seat.fault else ""
                raise SlotsFailedError(f"no slot becomes ready: {words}", told)
        self._patience.say(f"slot {seat.number} has died: {words}; {_again(seat)}")
        for name, item in seat.given.items():
            self._give_back(seat, name, item, message.own, words)
        if seat.alone and not seat.given and seat.alone[0] in self._left:
            self._suspects.appendleft(seat.alone)  # it was to try that, and has not asked for it
        if len(self.board.seats) < len(self._left):
            self._start(seat.number)
        self._feed()

    def _give_back(self, seat: Seat, name: str, item: Any, own: bool, words: str) -> None:
        alone = len(seat.given) == 1
        if own:
            verdict = self._blame.after_death(name, alone=alone, told=seat.fault is not None)
        else:
            verdict = self._blame.after_loss(name, alone=alone)
        if verdict is Verdict.AGAIN:
            self._todo.appendleft(Task(((name, item),)))
        elif verdict is Verdict.SET_ASIDE:
            self._put_aside(seat, name, words)
        else:
            self._suspects.append((name, item))

    def _put_aside(self, seat: Seat, name: str, words: str) -> None:
        tried = ", the last time with isolated decoding" if self._blame.is_isolated(name) else ""
        self._set_aside[name] = (
            f"{name} ended {self._blame.deaths(name)} slots that held nothing else{tried}: {words}"
        )
        self._told = seat.fault.told if seat.fault else self._told
        self._left.discard(name)
        self._in_a_row += 1
        if self._in_a_row >= HOPELESS:
            raise SlotsFailedError("; ".join(self._set_aside.values()), self._told)

    def _stop(self) -> None:
        """Ends all slots, and returns when none is left."""
        for seat in self.board.seats.values():
            seat.slot.send(Stop())
        until, killed = time.monotonic() + GRACE_S, False
        while self.board.seats:
            with suppress(queue.Empty):
                slot, message = self._inbox.get(timeout=TICK_S / 5)
                if isinstance(message, Dead):
                    self.board.seats.pop(slot, None)
            if not killed and time.monotonic() > until:
                killed, until = True, until + GRACE_S
                for seat in self.board.seats.values():
                    seat.slot.kill()
            elif killed and time.monotonic() > until:
                return


def _again(seat: Seat) -> str:
    count = len(seat.given)
    return f"what it held is given again ({count})" if count else "it held nothing"
