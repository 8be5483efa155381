"""What a supervisor and its slots say to each other, whatever engine carries it.

A slot's messages arrive in order; the last one is its death, which its engine tells.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class Task(NamedTuple):
    """What is given to a slot at once: an item of work, or some that are cheaper to do together.

    Attributes:
        items: name and content of each.
    """

    items: tuple[tuple[str, Any], ...]


# From a slot to its supervisor.


class Started(NamedTuple):
    """The slot's process runs; it loads what it needs."""

    where: str


class Ready(NamedTuple):
    """The slot waits for the word to go."""


class Ask(NamedTuple):
    """The slot can hold another task.

    Attributes:
        held: items that wait in it to be begun.
    """

    held: int


class Begun(NamedTuple):
    """Work on an item has begun."""

    name: str


class Done(NamedTuple):
    """An item is whole in the output."""

    name: str
    result: Any


class Beat(NamedTuple):
    """Something was finished, if only a part of an item.

    Attributes:
        rows: that the slot has done since it began.
    """

    rows: int


class Ended(NamedTuple):
    """The slot has no more work and holds nothing.

    Attributes:
        about: what it measured.
    """

    about: Any


class Failed(NamedTuple):
    """The work has raised an error; the slot's process is about to end.

    Attributes:
        words: what went wrong, in one sentence.
        everywhere: whether it would be the same in every slot, so that the run must end.
        told: its traceback, where it is a fault of this program; else "".
    """

    words: str
    everywhere: bool = False
    told: str = ""


class Dead(NamedTuple):
    """The slot is gone; the engine tells.

    Attributes:
        why: in words.
        own: whether it was the slot that failed, and not its machine or the way to it.
    """

    why: str
    own: bool = True


# From a supervisor to a slot.


class Go(NamedTuple):
    """Begin to ask for work.

    Attributes:
        isolated: whether what may kill a process is to be done in processes of their own.
    """

    isolated: bool = False


class Give(NamedTuple):
    """The answer to `Ask`: a task, or nothing for now. A slot that then holds nothing ends."""

    task: Task | None


class Stop(NamedTuple):
    """End at once."""


class Handle(Protocol):
    """A slot, as its supervisor has hold of it."""

    def send(self, message: Any) -> None:
        """Sends a message; nothing happens if the slot is gone."""

    def kill(self) -> None:
        """Ends the slot at once; its death is told as any other."""
