"""What a slot does, handed to it by whoever starts an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.engine.slots.messages import Failed

if TYPE_CHECKING:
    from pipelines.engine.slots.desk import Desk


class Work(Protocol):
    """Something that a slot loads once and does over and over; it travels by cloudpickle."""

    def load(self) -> None:
        """Loads what every item needs."""

    def run(self, desk: Desk, isolated: bool) -> Any:
        """Takes items from the desk until there are none for now; returns what was measured."""

    def failed(self, error: BaseException) -> Failed:
        """Says what went wrong, when `load` or `run` has raised."""


@dataclass(frozen=True)
class EachItem:
    """Calls a function with each item; what it returns goes back to the supervisor.

    Attributes:
        function: something that can be pickled.
        describe: says in one sentence what went wrong.
    """

    function: Callable[[Any], Any]
    describe: Callable[[BaseException], Failed]

    def load(self) -> None:
        """Loads nothing."""

    def run(self, desk: Desk, isolated: bool) -> None:
        """Does one item after the other."""
        while (task := desk.take(self, 0)) is not None:
            for name, item in task.items:
                desk.begun(name)
                desk.done(name, self.function(item))

    def failed(self, error: BaseException) -> Failed:
        """Says what went wrong."""
        return self.describe(error)
