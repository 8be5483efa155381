"""Slots that are processes of this machine, started with `subprocess` and spoken to by a pipe.

Not `multiprocessing`, which imports the caller's `__main__` again in each.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import cloudpickle

from pipelines.engine.slots.messages import Dead
from pipelines.engine.slots.work import Work

_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 2000  # of what a slot writes on stderr
# The child finds modules where this process does, whatever its working directory holds.
_CODE = (
    "import sys; sys.path[:] = sys.argv[1].split(chr(10)); "
    "from pipelines.engine.slots.processes import main; main(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True)
class Processes:
    """Starts slots on this machine.

    Attributes:
        work: what they do.
        cores: that each may use.
        gpus: names of those that the slots share out, as CUDA_VISIBLE_DEVICES has them; empty for
            none.
    """

    work: Work
    cores: int
    gpus: Sequence[str] = ()

    def start(self, number: int, inbox: queue.SimpleQueue[Any]) -> ProcessSlot:
        """Starts a slot; its messages come to the inbox, each as (slot, message)."""
        env = dict(os.environ)
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        return ProcessSlot(self.work, self.cores, env, inbox)


class ProcessSlot:
    """A slot, as its supervisor has hold of it.

    It is a session of its own, so that Ctrl-C in a terminal reaches the launcher alone.
    """

    def __init__(
        self, work: Work, cores: int, env: dict[str, str], inbox: queue.SimpleQueue[Any]
    ) -> None:
        self._link, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        argv = ["\n".join(sys.path), str(theirs.fileno()), str(os.getpid()), str(cores)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *argv],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
        )
        theirs.close()  # else its death would not end `recv`
        self.send(cloudpickle.dumps(work))
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()

    def send(self, message: Any) -> None:
        """Sends a message; nothing happens if the slot is gone: that it died is on its way."""
        with suppress(OSError):
            self._link.send(message)

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def _listen(self, inbox: queue.SimpleQueue[Any]) -> None:
        try:
            while True:
                inbox.put((self, self._link.recv()))
        except (EOFError, OSError):
            inbox.put((self, Dead(self._why(self._process.wait()))))
        self._stderr.close()

    def _why(self, status: int) -> str:
        if status < 0:
            name = signal.Signals(-status).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(size - _TAIL_BYTES, 0))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with status {status}" + (f": {lines[-1]}" if lines else "")


def main(fd: int, launcher: int, cores: int) -> None:
    """Runs in the process of a slot, from its start to its end.

    Args:
        fd: of the pipe.
        launcher: number of the process at its other end.
        cores: that this one may use.
    """
    _end_with(launcher)
    for number in (signal.SIGINT, signal.SIGTERM):  # a whole group may get it; the launcher decides
        signal.signal(number, signal.SIG_IGN)
    from pipelines.engine.cores import use_cores
    from pipelines.engine.memory import return_freed_memory
    from pipelines.engine.slots.desk import live
    from pipelines.storage.redaction import own_process

    own_process()
    return_freed_memory()
    use_cores(cores)  # before anything is imported that counts them
    link = Connection(fd)
    live(pickle.loads(link.recv()), link.send, link.recv)  # made by this very run
    os._exit(1)


def _end_with(launcher: int) -> None:
    """Lets the kernel end this process with its launcher, even where no thread of it can run."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # which was gone before that
            os._exit(0)
