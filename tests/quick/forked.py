"""Processes that are forked where torch, Beam and the commands are imported, which takes seconds.

For tests that ask what a process does, and not how one starts. `Forked` is `subprocess.Popen` for
`python -c CODE` and `python -m MODULE`: its process is a child of this one, with the working directory,
environment, session and open files that were asked for, and hears SIGINT. Unlike a new process it has
modules that it did not import, and what these read as they were imported (`OMP_NUM_THREADS`) is from
this one. Linux only, as orphans are adopted there alone; elsewhere `Forked` is `subprocess.Popen`.
"""

import ctypes
import functools
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import fork_server
from making import ROOT

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
IMPORTED = (
    "pipelines.runs.embedding",
    "pipelines.runs.on_slots",
    "pipelines.engine.slots.processes",
    "pipelines.engine.slots.desk",
    "apache_beam.runners.worker.sdk_worker_main",
)
_turn = threading.Lock()


@functools.cache
def _server() -> socket.socket:
    """Starts the server of this process, which ends with it."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, fork_server.__file__, str(theirs.fileno()), *IMPORTED]
    subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
    theirs.close()
    return ours


class Forked(subprocess.Popen):
    """`subprocess.Popen` for Python, whose process is forked by the server."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        _, _, shell, *pipes, _, _, _, _, _, session = rest[:15]
        if shell:
            args = shlex.split(args)
        python, how, what, *arguments = map(os.fspath, args)
        if python != sys.executable or how not in ("-c", "-m") or preexec_fn:
            raise ValueError(f"cannot be forked: {args}")
        ends = (pipes[0], pipes[3], pipes[5])
        files = {number: number if end == -1 else end for number, end in enumerate(ends)}
        files |= {number: number for number in pass_fds}
        asked = {
            "command": (how, what, arguments),
            "cwd": os.fspath(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "session": bool(session),
            "numbers": list(files),
        }
        self.pid = _fork(json.dumps(asked).encode(), list(files.values()))
        self._child_created = True
        self._close_pipe_fds(*pipes)


if not sys.platform.startswith("linux"):
    Forked = subprocess.Popen  # noqa: F811


def _fork(asked: bytes, files: list[int]) -> int:
    """Has the server fork; returns the number of the process, a child of this one.

    An orphan becomes the child of the nearest process around it that asks for orphans.
    """
    with _turn:
        link, libc = _server(), ctypes.CDLL(None)
        libc.prctl(_SUBREAPER, 1)
        try:
            socket.send_fds(link, [f"{len(asked)}\n".encode()], files)
            link.sendall(asked)
            number = link.recv(20)
        finally:
            libc.prctl(_SUBREAPER, 0)
    if not number:
        raise RuntimeError(f"the server cannot import {', '.join(IMPORTED)}")
    return int(number)


def run(command, **settings) -> subprocess.CompletedProcess:
    """`subprocess.run` with such a process."""
    timeout = settings.pop("timeout", 100)
    if settings.pop("capture_output", False):
        settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Forked(command, **settings) as process:
        try:
            heard = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *heard)


def as_subprocess() -> SimpleNamespace:
    """Returns what stands for the module `subprocess` where a program is to fork."""
    return SimpleNamespace(**{**vars(subprocess), "Popen": Forked, "run": run})
