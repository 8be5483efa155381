"""What went wrong first in a run, so that its other bundles in this process stop, too.

Beam goes on with the bundles that run beside one that failed, and only then raises. Stages of a run
ask here before they go on, so no file gets its name once a run is known to have failed. Runs on
other machines do not hear of it: there the lock of the output decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

WAIT_S = 20.0
_failed: dict[str, BaseException] = {}  # run -> its first error
_writers: dict[int, str] = {}  # bundles that write -> their run
_changed = threading.Condition()


class RunStoppedError(RuntimeError):
    """Another bundle of the run failed; that one is the cause."""


@contextmanager
def ends_the_run(run: str) -> Iterator[None]:
    """Notes the first error of a run; nothing for stages that belong to none (`""`)."""
    try:
        yield
    except BaseException as error:
        stop(run, error)
        raise


def stop(run: str, error: BaseException) -> None:
    """Notes that a run has failed, unless that is known."""
    if run:
        _failed.setdefault(run, error)


def check(run: str, given_up: bool = False) -> None:
    """Goes on only in a run that has not failed, and in a bundle that is not given up.

    Args:
        given_up: whether Beam has torn the bundle down, from another thread, as a sibling failed.

    Raises:
        RunStoppedError: from the first error.
    """
    if run in _failed:
        raise RunStoppedError(str(_failed[run])) from _failed[run]
    if given_up:
        raise RunStoppedError("another bundle of the run failed")


def writing(bundle: object, run: str, begun: bool) -> None:
    """Notes that a bundle begins to write, or has ended."""
    with _changed:
        if begun:
            _writers[id(bundle)] = run
        else:
            _writers.pop(id(bundle), None)
        _changed.notify_all()


def close(run: str) -> None:
    """Ends a run in this process: nothing goes on, and what still writes has come to its end.

    Its first error is forgotten, since that holds on to the frames it was raised in.
    """
    stop(run, RunStoppedError("the run has ended"))
    _wait_for_writers(run)
    _failed[run] = RunStoppedError("the run has ended")


def _wait_for_writers(run: str) -> None:
    until = time.monotonic() + WAIT_S
    with _changed:
        while run in _writers.values() and time.monotonic() < until:
            _changed.wait(0.1)
