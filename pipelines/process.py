"""How the process of a command ends: what it says, its exit status, and what signals do to it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from pipelines.console import prepare_streams
from pipelines.redaction import scrub

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
UNHEARD = 128 + 13  # SIGPIPE, which not every system has
AGAIN_S = 2.0


class Terminated(BaseException):
    """SIGTERM arrived."""


class RunnerError(OSError):
    """Beam does not start a job with the flags it was given."""


def status_of(error: Exception) -> int:
    """Returns the exit status for what went wrong in the midst of the work."""
    return WRONG_USAGE if isinstance(error, RunnerError) else FAILED


def fail(command: str, message: str, status: int) -> int:
    """Says on stderr, without credentials, why a command fails; returns its exit status."""
    print(f"clip-beam {command}: {scrub(message)}", file=sys.stderr)
    return status


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process; after a signal it does so at once."""
    prepare_streams()
    signal.signal(signal.SIGTERM, _raising(Terminated))
    # A shell has it ignored for a job in the background.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _raising(KeyboardInterrupt))
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        calm()
        print("clip-beam: interrupted", file=sys.stderr)
        status = INTERRUPTED
    except Terminated:
        calm()
        print("clip-beam: terminated", file=sys.stderr)
        status = TERMINATED
    except BrokenPipeError:  # who was reading, `head` perhaps, has seen enough
        os._exit(UNHEARD)
    if status in (INTERRUPTED, TERMINATED):
        # Python would wait for every thread, and the signal may have come before Beam took note of
        # one that it had started, which then never ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def calm() -> None:
    """Takes note that a signal was heard."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raising(error: type[BaseException]) -> Callable[[int, FrameType | None], None]:
    """Returns a handler that raises an error, over and over until `calm` is called.

    Once would not do: Python drops what is raised while it clears away an object.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise error

    return handle
