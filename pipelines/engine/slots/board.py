"""What is known of the slots of a run: who holds what, who is silent, and how much is done."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.slots.messages import Failed, Handle
from pipelines.engine.tally import added


class State(enum.Enum):
    """What a slot does."""

    STARTING = "is being started"
    LOADING = "loads"
    IDLE = "waits"
    WORKING = "works"


@dataclass(eq=False)
class Seat:
    """A living slot.

    Attributes:
        heard: when it last finished something, or got something to do.
        where: process and machine.
        given: items that it was given and has not told done, by name.
        alone: the one item that it is to try; None where it takes what there is.
        told_rows: that it has done, as it says.
        done_rows: of these, the rows of items that are done.
        fault: what it said before it died.
    """

    slot: Handle
    number: int
    heard: float
    state: State = State.STARTING
    where: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    alone: tuple[str, Any] | None = None
    told_rows: int = 0
    done_rows: int = 0
    done_items: int = 0
    fault: Failed | None = None
    is_reported: bool = False

    @property
    def rows(self) -> int:
        """Rows of items that are not done yet."""
        return max(0, self.told_rows - self.done_rows)

    @property
    def doing(self) -> str:
        """Says what it does."""
        return f"works on {', '.join(sorted(self.given))}" if self.given else self.state.value


class Patience:
    """How long slots may be silent.

    Args:
        load: seconds until a slot is ready.
        report: seconds with work, until the user is told.
        kill: seconds with work, until it is ended as if it had died; None for never.
        say: takes what the user is told.
    """

    def __init__(
        self,
        say: Callable[[str], object] = lambda line: None,
        report: float = 60.0,
        kill: float | None = 600.0,
        load: float = 1800.0,
    ) -> None:
        self.say, self._report, self._kill, self._load = say, report, kill, load

    def is_over(self, seat: Seat, now: float) -> str | None:
        """Returns why a slot is to be ended, if it is."""
        silent = now - seat.heard
        if seat.state is State.LOADING:
            return f"was not ready after {silent:.0f} s" if silent > self._load else None
        if not seat.given or silent <= self._report:
            return None
        if not seat.is_reported:
            seat.is_reported = True
            self.say(f"slot {seat.number} finished nothing for {silent:.0f} s; it {seat.doing}")
        is_over = self._kill is not None and silent > self._kill
        return f"finished nothing for {silent:.0f} s" if is_over else None


class Board:
    """The living slots, and what all have done."""

    def __init__(self) -> None:
        self.seats: dict[Handle, Seat] = {}
        self.seconds: dict[str, float] = {}
        self.done_rows = 0
        self.done_items = 0
        self.rejects: Counter[str] = Counter()

    def note_time(self, about: Any) -> None:
        """Adds what a slot has measured: seconds by stage."""
        if isinstance(about, Mapping):
            self.seconds = added(self.seconds, about)

    def note_done(self, seat: Seat, rows: int, rejects: Mapping[str, int]) -> None:
        """Counts an item that is done."""
        seat.done_rows += rows
        seat.done_items += 1
        self.done_rows += rows
        self.done_items += 1
        self.rejects.update(rejects)

    @property
    def rows(self) -> int:
        """Rows done, those of items that are not whole yet among them."""
        return self.done_rows + sum(seat.rows for seat in self.seats.values())

    def lines(self) -> list[str]:
        """Says of each slot what it does."""
        return [
            f"slot {seat.number} ({seat.where or 'no process yet'}) {seat.doing}; "
            f"{seat.done_items} done"
            for seat in sorted(self.seats.values(), key=lambda seat: seat.number)
        ]
