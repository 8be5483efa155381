"""The life of a slot, on every engine: it loads, asks for work, and ends with its launcher."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

from pipelines.engine.slots.messages import (
    Ask,
    Beat,
    Begun,
    Done,
    Ended,
    Give,
    Go,
    Ready,
    Started,
    Stop,
    Task,
)
from pipelines.engine.slots.work import Work
from pipelines.engine.tally import TALLY

BEAT_S = 1.0


class Desk:
    """Where the work of a slot gets items, and tells what became of them; safe for threads.

    Args:
        send: takes a message to the supervisor.
    """

    def __init__(self, send: Callable[[Any], object]) -> None:
        self._send, self._sending = send, threading.Lock()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._held: dict[int, int] = {}

    def take(self, holder: object, held: int) -> Task | None:
        """Asks for a task; None for not now, and to a slot that holds nothing: no more.

        Args:
            holder: who asks; a slot may have several.
            held: items that it holds and has not begun.
        """
        with self._asking:  # they take turns
            self._held[id(holder)] = held
            self.send(Ask(sum(self._held.values())))
            answer = self._answers.get()
        assert isinstance(answer, Give), "an asking slot is told nothing else"
        return answer.task

    def begun(self, name: str) -> None:
        """Tells that work on an item has begun."""
        self.send(Begun(name))

    def done(self, name: str, result: Any) -> None:
        """Tells that an item is whole."""
        self.send(Done(name, result))

    def send(self, message: Any) -> None:
        """Sends a message, one at a time."""
        with self._sending:
            self._send(message)

    def hear(self, message: Any) -> None:
        """Takes what the supervisor has sent."""
        self._answers.put(message)

    def wait_for_go(self) -> Go:
        """Waits for the word to begin."""
        answer = self._answers.get()
        assert isinstance(answer, Go), "a waiting slot is told nothing else"
        self._held.clear()
        return answer


_desk: Desk | None = None


def current() -> Desk:
    """Returns the desk of this process, for stages of a pipeline, which travel by pickle."""
    assert _desk is not None, "only a slot has a desk"
    return _desk


def live(work: Work, send: Callable[[Any], object], receive: Callable[[], Any]) -> None:
    """Lives a slot's life; returns when the work has failed, after telling so.

    Args:
        receive: waits for the next message of the supervisor; raises EOFError or OSError when its
            process is gone.
    """
    global _desk
    desk = _desk = Desk(send)
    threading.Thread(target=_listen, args=(desk, receive), daemon=True).start()
    try:
        desk.send(Started(f"process {os.getpid()} on {socket.gethostname()}"))
        work.load()
        desk.send(Ready())
        threading.Thread(target=_beat, args=(desk,), daemon=True).start()
        while True:
            go = desk.wait_for_go()
            desk.send(Ended(work.run(desk, go.isolated)))
    except BaseException as error:  # whatever it is, the supervisor hears of it
        desk.send(work.failed(error))


def _listen(desk: Desk, receive: Callable[[], Any]) -> None:
    """Hands on what the supervisor says; at its word, or when it is gone, the process ends."""
    try:
        while not isinstance(message := receive(), Stop):
            desk.hear(message)
    except (EOFError, OSError):
        pass
    os._exit(0)


def _beat(desk: Desk) -> None:
    """Tells now and then what was done; nothing, if nothing was: that is how a hang is noticed."""
    told = TALLY.rows
    wait = threading.Event()
    while not wait.wait(BEAT_S):
        if TALLY.rows != told:
            told = TALLY.rows
            desk.send(Beat(told))
