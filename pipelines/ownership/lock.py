"""Keeps two runs out of one output: OUTPUT/_RUNNING names the run that writes there.

The launcher holds the lock, creates it exclusively where the filesystem can, and renews it while it
lives; workers look at it before a file gets its name. A lock is taken over when
its process is known to be gone, which only its own machine and container can tell, or has not
renewed it for `STALE_S` seconds.

One of several parts of a run holds a lock of its own, such as OUTPUT/_RUNNING.3-of-64. Each takes
its own first and looks at the others' then, so that of two that must not run side by side at least
one sees the other.

What this cannot do: clocks that differ by more than `STALE_S` between machines defeat it; and on a
filesystem without exclusive creation two runs that start in the same moment may both begin, and
the earlier one notices before its next file gets its name, and gives up.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.ownership.parts import NAME, Part, lock_uri, part_locks
from pipelines.storage import reading, uris, writing

BEAT_S = 15.0
STALE_S = 90.0
_MAX_BYTES = 1 << 16
_held: set[str] = set()  # by this process


class OutputLockedError(ValueError):
    """Another run writes to the output: says which, and when it was last seen."""


class LockLostError(RuntimeError):
    """Another run has taken the output over, as this one was not heard of for too long."""


class RunLock:
    """Says, while it is held, that this run and no other writes to an output.

    Args:
        clock: tells the time, seconds since the epoch.
        wait: waits for an event so many seconds, and tells whether it came.
        part: of the run; None for all of it.

    Attributes:
        about: tells what the lock says besides, such as how far the run is; asked at each renewal.
    """

    def __init__(
        self,
        output: str,
        clock: Callable[[], float] = time.time,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
        part: Part | None = None,
    ) -> None:
        self._output, self._part = output, part
        self.about: Callable[[], Mapping[str, Any]] = dict
        self._uri = lock_uri(output, part)
        self._clock, self._wait = clock, wait
        self._me = {
            "run": secrets.token_hex(8),
            **_place(),
            "process": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "began": clock(),
        }
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True)

    @property
    def run(self) -> str:
        """Id of the run, new each time."""
        return str(self._me["run"])

    def acquire(self) -> None:
        """Takes the lock, and renews it from now on in a thread of its own.

        Raises:
            OutputLockedError: if another run holds it, or a part of one, or all of the output.
        """
        created = writing.create_exclusively(self._uri, self._content())
        # A creation that is tried again may find the lock that the first attempt left.
        if not created and self._holder() != self._me["run"]:
            check_unlocked(self._uri, self._clock())
            writing.write_atomically(self._uri, self._content())
        if self._holder() != self._me["run"]:  # another took it over in the same moment
            raise OutputLockedError(f"another run has just begun in the output of {self._uri}")
        _held.add(self.run)
        self._thread.start()
        try:
            self._check_alone()
        except BaseException:
            self.release()
            raise

    def _check_alone(self) -> None:
        """Looks at the locks that this one may not be held beside; removes those of the dead."""
        others = part_locks(self._output) if self._part is None else [lock_uri(self._output)]
        for uri in others:
            check_unlocked(uri, self._clock())
            if self._part is None:  # whoever still writes for it sees that it is gone
                writing.remove(uri)

    def release(self) -> None:
        """Gives the lock back, if it was taken and is still this run's."""
        if not self._thread.is_alive():
            return
        self._stop.set()
        self._thread.join()
        _held.discard(self.run)
        with suppress(OSError):
            if self._holder() == self._me["run"]:
                writing.remove(self._uri)

    def check(self) -> None:
        """Makes sure that the output is still this run's.

        Raises:
            LockLostError: if it is not.
        """
        if self._lost or self._holder() != self._me["run"]:
            raise _lost(self._uri)

    def _keep_renewing(self) -> None:
        while not self._wait(self._stop, BEAT_S):
            with suppress(OSError):  # a store that fails for now is tried again
                self._lost = self._lost or self._holder() != self._me["run"]
                if not self._lost:
                    writing.write_atomically(self._uri, self._content())

    def _content(self) -> bytes:
        content = self._me | {"seen": self._clock(), **self.about()}
        return json.dumps(content, indent=2).encode() + b"\n"

    def _holder(self) -> Any:
        return _read(self._uri).get("run")


class FoundLock(NamedTuple):
    """A lock that lies in an output.

    Attributes:
        part: such as `3-of-64`; "" for that of all of it.
        lives: whether its run is not known to be gone.
    """

    part: str
    lives: bool
    content: dict[str, Any]


def found_locks(output: str) -> list[FoundLock]:
    """Returns the locks that lie in an output."""
    now, found = time.time(), []
    for uri in [lock_uri(output), *part_locks(output)]:
        if content := _read(uri):
            part = uris.base_name(uri).removeprefix(NAME).removeprefix(".")
            found.append(FoundLock(part, _lives(content, now), content))
    return found


def living_runs(output: str) -> set[str]:
    """Returns the ids of the runs that hold a lock of an output, as far as is known."""
    return {str(lock.content.get("run")) for lock in found_locks(output) if lock.lives}


def check_held(output: str, run: str, part: Part | None = None) -> None:
    """Makes sure that a run still holds the lock of its output; nothing for one that holds none.

    Raises:
        LockLostError: if it does not.
    """
    uri = lock_uri(output, part)
    if run and _read(uri).get("run") != run:
        raise _lost(uri)


def _lost(uri: str) -> LockLostError:
    return LockLostError(
        f"another run has taken over the output, or this one has ended, as {uri} was not renewed "
        f"for {STALE_S:.0f} s or is gone; finished units are kept"
    )


def check_unlocked(uri: str, now: float) -> None:
    """Makes sure that no living run holds the lock `uri`.

    Raises:
        OutputLockedError: if one does.
    """
    found = _read(uri)
    if found and _lives(found, now):
        what = "another run writes"
        if uris.base_name(uri) != NAME:
            what = f"part {uris.base_name(uri).removeprefix(f'{NAME}.')} of a run writes"
        silent_s = now - float(found.get("seen", 0))
        raise OutputLockedError(
            f"{what} to this output: process {found.get('process')} on "
            f"{found.get('host')}, last heard of {max(silent_s, 0):.0f} s ago; wait for it, or "
            f"stop it and run again (from another machine or container, {STALE_S:.0f} s later)"
        )


def _lives(found: dict[str, Any], now: float) -> bool:
    """Tells whether a lock's run may still be at work."""
    return not _is_gone(found) and now - float(found.get("seen", 0)) < STALE_S


def _read(uri: str) -> dict[str, Any]:
    """Returns what the lock says; nothing if there is none, or it makes no sense."""
    try:
        found = json.loads(reading.read_retried(uri, _MAX_BYTES))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_gone(found: dict[str, Any]) -> bool:
    """Tells whether the run was a process that is known to be no more."""
    here = _place()
    if {name: found.get(name) for name in here} != here:
        return False  # its number is another process here, or none
    process = int(found.get("process", 0))
    if process == os.getpid():  # this one, or an earlier one of the same number
        return found.get("run") not in _held
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return bool(found.get("process_start") != _process_start(process))


def _place() -> dict[str, str]:
    """Says where a number names one process: not beyond a machine, a boot and a container.

    Containers may share a host name, and usually all run as the same small number.
    """
    place = {"host": socket.gethostname(), "boot": "", "process_namespace": ""}
    with suppress(OSError):  # there is no /proc
        place["process_namespace"] = os.readlink("/proc/self/ns/pid")
        place["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return place


def _process_start(process: int) -> str:
    """Tells processes apart that had the same number one after the other; "" where it cannot."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # field 22: ticks since the boot
