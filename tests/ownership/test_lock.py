import json
import os
import socket
import subprocess
import sys
import threading
import time

import fsspec
import pytest

from pipelines.ownership import lock as run_lock
from pipelines.ownership.lock import (
    BEAT_S,
    STALE_S,
    LockLostError,
    OutputLockedError,
    RunLock,
    lock_uri,
)
from pipelines.storage import listing, reading, writing


@pytest.fixture(params=["local", "memory"])
def output(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "out")
    else:
        yield "memory://locks/out"
        fsspec.filesystem("memory").rm("/locks", recursive=True)


def content(output):
    return json.loads(reading.read_whole(lock_uri(output), 10_000))


def leave_lock(output, **changes):
    """Leaves the lock of a run on another machine, as it was a moment ago."""
    found = {"run": "other", "host": "elsewhere", "process": 1, "seen": time.time() - 5, **changes}
    writing.write_atomically(lock_uri(output), json.dumps(found).encode())


def leave_lock_here(output, **changes):
    """Leaves the lock of a process of this machine and container."""
    leave_lock(output, **run_lock._place(), **changes)


def acquired(output):
    lock = RunLock(output)
    lock.acquire()
    return lock


def test_lock_names_its_run_and_is_gone_afterwards(output):
    lock = acquired(output)
    assert content(output)["process"] == os.getpid()
    lock.check()
    lock.release()
    assert not listing.exists(lock_uri(output))
    acquired(output).release()


def test_second_run_is_refused_until_the_first_is_done(output):
    first = acquired(output)
    second = RunLock(output)
    message = f"process {os.getpid()} on {socket.gethostname()}, last heard of 0 s ago"
    with pytest.raises(OutputLockedError, match=message):
        second.acquire()
    second.release()  # takes nothing away that is not its own
    first.check()
    first.release()
    acquired(output).release()


def test_run_of_another_machine_is_waited_for(output):
    leave_lock(output)
    with pytest.raises(OutputLockedError, match=f"on elsewhere.*{STALE_S:.0f} s later"):
        RunLock(output).acquire()
    assert content(output)["run"] == "other"


def test_run_that_was_not_heard_of_for_long_is_taken_over(output):
    leave_lock(output, seen=time.time() - STALE_S - 1)
    acquired(output).release()


def test_run_of_this_machine_that_is_gone_is_taken_over_at_once(output):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    leave_lock_here(output, process=process.pid)
    acquired(output).release()


def test_run_whose_process_number_another_has_now_is_taken_over(output):
    leave_lock_here(output, process=os.getppid(), process_start="long ago")
    acquired(output).release()
    leave_lock_here(output, process=os.getpid(), process_start="long ago")
    acquired(output).release()


def test_living_process_is_waited_for(output):
    start = run_lock._process_start(os.getppid())
    leave_lock_here(output, process=os.getppid(), process_start=start)
    with pytest.raises(OutputLockedError, match=f"process {os.getppid()} on "):
        RunLock(output).acquire()


@pytest.mark.parametrize("number", ["own", "of nobody"])
@pytest.mark.parametrize("other", ["boot", "process_namespace"])
def test_run_of_another_container_with_this_host_name_is_waited_for(output, other, number):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    place = run_lock._place() | {other: "another"}
    leave_lock(output, **place, process=os.getpid() if number == "own" else gone.pid)
    with pytest.raises(OutputLockedError, match="from another machine or container"):
        RunLock(output).acquire()


def test_lock_works_where_there_is_no_proc(output, monkeypatch):
    def absent(path, *arguments):
        raise FileNotFoundError(path)

    monkeypatch.setattr(run_lock.os, "readlink", absent)
    monkeypatch.setattr(run_lock.Path, "read_text", absent)
    test_second_run_is_refused_until_the_first_is_done(output)
    test_run_of_this_machine_that_is_gone_is_taken_over_at_once(output)


@pytest.mark.parametrize("junk", [b"", b"{", b"[1]", b"null", b"\xff"])
def test_lock_that_makes_no_sense_is_taken_over(output, junk):
    writing.write_atomically(lock_uri(output), junk)
    acquired(output).release()


def test_run_that_was_taken_over_notices_and_leaves_the_lock_alone(output):
    lock = acquired(output)
    leave_lock(output)
    with pytest.raises(LockLostError, match="finished units are kept"):
        lock.check()
    lock.release()
    assert content(output)["run"] == "other"


class Beats:
    """A clock that moves by the beats a lock waits for, at once; after some it stands still."""

    def __init__(self, count):
        self.left, self.now, self.over = count, 1000.0, threading.Event()

    def clock(self):
        return self.now

    def wait(self, stop, seconds):
        if not self.left:
            self.over.set()
            return stop.wait()
        self.left -= 1
        self.now += seconds
        return False


def held_for(output, beats):
    """A lock that has been held for so many beats."""
    time = Beats(beats)
    lock = RunLock(output, time.clock, time.wait)
    lock.acquire()
    assert time.over.wait(60)
    return lock


def test_lock_is_renewed_while_it_is_held(output):
    lock = held_for(output, beats=3)
    assert (content(output)["began"], content(output)["seen"]) == (1000, 1000 + 3 * BEAT_S)
    lock.release()
    assert not listing.exists(lock_uri(output))


def test_store_that_fails_for_a_moment_does_not_end_the_renewal(output, monkeypatch):
    write, faults = writing.write_atomically, [ConnectionError("try again")]

    def failing_once(uri, data):
        if faults:
            raise faults.pop()
        write(uri, data)

    monkeypatch.setattr(writing, "write_atomically", failing_once)
    lock = held_for(output, beats=2)
    assert not faults and content(output)["seen"] == 1000 + 2 * BEAT_S
    lock.check()
    lock.release()
