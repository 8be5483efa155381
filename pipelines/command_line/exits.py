"""How the process of a command ends: what it says, its exit status, and what signals do to it."""

from __future__ import annotations

import errno
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from pipelines.command_line.console import prepare_streams
from pipelines.command_line.flag_names import in_flags, noting_flags
from pipelines.storage.redaction import own_process, scrub

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
UNHEARD = 128 + 13  # SIGPIPE, which not every system has
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
AGAIN_S = 2.0
WOKEN_S = 0.2
Main = TypeVar("Main", bound=Callable[..., int])

_own = threading.Event()  # set where a command has the process to itself
_handled = threading.Event()  # set once a signal's handler has run
_calm = threading.Event()  # set once the command knows of the signal
_left = threading.Event()  # set where threads of this process must not be waited for
_put_back: ContextVar[ExitStack | None] = ContextVar("_put_back", default=None)
_told: list[Callable[[BaseException], object]] = []


class Terminated(BaseException):
    """SIGTERM arrived."""


class RunnerError(OSError):
    """Beam does not start a job with the flags it was given."""


def status_of(error: Exception) -> int:
    """Returns the exit status for what went wrong in the midst of the work.

    Raises:
        BrokenPipeError: if nobody reads stdout any more, which is nothing to complain of.
    """
    if isinstance(error, BrokenPipeError) and _reader_is_gone():
        raise error
    return WRONG_USAGE if isinstance(error, RunnerError) else FAILED


def _reader_is_gone() -> bool:
    """Tells whether stdout is a pipe that was closed at its other end."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no file, or no such system
        return False


def status_before(error: Exception) -> int:
    """Returns the exit status for what was found before the work; 2 unless the error says more."""
    if getattr(error, "errno", None) in _OF_THE_DISK:
        return FAILED
    return getattr(error, "exit_status", WRONG_USAGE)


def fail(command: str, message: str, status: int) -> int:
    """Says on stderr, without credentials, why a command fails; returns its exit status."""
    print(f"clip-beam {command}: {scrub(in_flags(message))}", file=sys.stderr)
    return status


def without_temporary_directory(command: str, error: FileNotFoundError) -> int:
    """Says that there is no such directory, for which Beam asks while it is imported.

    Raises:
        FileNotFoundError: `error`, if it is about something else.
    """
    if "temporary directory" not in str(error):
        raise error
    remedy = "name one that can be written with the variable TMPDIR"
    return fail(command, f"{error}; {remedy}", WRONG_USAGE)


def command(main: Main) -> Main:
    """Makes a function of a command one that others can call: it returns whatever happens.

    Where the command line ends a program it returns the exit status, and what it changed in the
    process, as `put_back` was told, is as before once the outermost such function returns.
    """

    @wraps(main)
    def called(argv: Sequence[str] | None = None) -> int:
        try:
            if _put_back.get() is not None:
                return main(argv)
            with ExitStack() as stack:
                stack.callback(_put_back.reset, _put_back.set(stack))
                stack.enter_context(noting_flags())
                return main(argv)
        except BrokenPipeError:
            if is_own():
                raise
            return UNHEARD
        except FileNotFoundError as error:
            return without_temporary_directory(_name(main), error)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else FAILED if ended.code else 0

    return cast(Main, called)


def _name(main: Callable[..., int]) -> str:
    """Returns the command that a function is of, also where its module was started by itself."""
    module = main.__module__
    if module == "__main__":
        module = os.path.basename(sys.argv[0]).removesuffix(".py")
    return module.rpartition(".")[2]


def put_back(undo: Callable[..., object], *arguments: Any) -> None:
    """Has something done when the command that is at work returns; nothing outside of one."""
    stack = _put_back.get()
    if stack is not None:
        stack.callback(undo, *arguments)


def mute(*loggers: str) -> None:
    """Quietens loggers of libraries while the command is at work, and to the end of a process that
    is its own: some speak as it ends. Nothing happens outside of a command."""
    if _put_back.get() is None:
        return
    for logger in map(logging.getLogger, loggers):
        if not is_own():
            put_back(logger.setLevel, logger.level)
            put_back(setattr, logger, "disabled", logger.disabled)
        logger.setLevel(logging.CRITICAL)  # of those below it, too
        logger.disabled = True  # a library may set a level of its own later


def is_own() -> bool:
    """Tells whether this process is a command's own, and not one that calls it."""
    return _own.is_set()


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process, which is set up for it; after a signal at once."""
    _own.set()
    prepare_streams()
    own_process()
    logging.getLogger().addFilter(_is_not_about_cloud_clients)
    _check_directory()
    signal.signal(signal.SIGTERM, _raising(Terminated))
    # A shell has it ignored for a job in the background.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _raising(KeyboardInterrupt))
    _wake_at_signals()
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
    if status in (INTERRUPTED, TERMINATED) or _left.is_set():
        # Python would wait for every thread, and the signal may have come before Beam took note of
        # one that it had started, which then never ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    gc.freeze()  # nor does Python look through all that was imported, which takes a second
    sys.exit(status)


def _check_directory() -> None:
    """Ends a process whose working directory is gone, where torch's libraries would abort it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        message = "the working directory was removed; change to another one"
        print(f"clip-beam: {message}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def _is_not_about_cloud_clients(record: logging.LogRecord) -> bool:
    """Beam warns while it is imported that its cloud extra is absent, which is the usual state."""
    return "apitools not found" not in record.getMessage()


@contextmanager
def at_signal(tell: Callable[[BaseException], object]) -> Iterator[None]:
    """Tells work in other threads of a signal at once, as the error that this thread raises."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)


def leave_threads() -> None:
    """Has the process end without its threads: some work for a job that is lost."""
    _left.set()


def calm() -> None:
    """Takes note that a signal was heard."""
    _calm.set()


def _raising(error: type[BaseException]) -> Callable[[int, FrameType | None], None]:
    """Returns a handler that raises an error."""

    def handle(signum: int, frame: FrameType | None) -> None:
        _calm.clear()
        _handled.set()
        for tell in _told:
            tell(error())
        raise error

    return handle


def _wake_at_signals() -> None:
    """Lets signals reach the main thread, over and over until `calm` is called.

    The system may hand a signal to another thread, and Python's handler then does not run while the
    main one waits for a lock. Nor does once do: Python drops what is raised while it clears away an
    object.
    """
    if not hasattr(signal, "pthread_kill"):
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_ring, args=(ours, theirs), daemon=True).start()


def _ring(ours: socket.socket, theirs: socket.socket) -> None:
    """Hears of every signal at once, in a thread of its own.

    Args:
        ours: tells the number of each.
        theirs: is kept open.
    """
    main = threading.main_thread().ident
    assert main is not None
    while number := ours.recv(1):
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            while not _handled.wait(WOKEN_S) or not _calm.wait(AGAIN_S):
                signal.pthread_kill(main, number[0])
