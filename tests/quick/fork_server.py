"""A process that has imported what commands import, and forks into commands that are asked for.

It is started by `forked.py` and ends with its starter. Each request is a line of JSON with the open
files of the process to be; it answers with the number of the process, a child of the starter.
"""

import gc
import json
import logging
import os
import runpy
import signal
import socket
import sys
from importlib import import_module
from types import ModuleType

MANY = 64  # open files of a process
HIGH = 500  # more than any number of an open file that is asked for


def serve(link: socket.socket) -> dict:
    """Forks for each request; returns, in the process that is forked, what it is to do."""
    while True:
        data, files, _, _ = socket.recv_fds(link, 1 << 20, MANY)
        if not data:
            os._exit(0)
        size, _, text = data.partition(b"\n")
        while len(text) < int(size):
            text += link.recv(1 << 20)
        asked = json.loads(text)
        told, tell = os.pipe()
        ready, go = os.pipe()
        between = os.fork()
        if not between:
            child = os.fork()
            if child:
                os.write(tell, str(child).encode())
                os._exit(0)
            for number in (link.detach(), told, tell, go):
                os.close(number)
            os.read(ready, 1)  # until the starter is the parent
            os.close(ready)
            return asked | {"files": files}
        os.waitpid(between, 0)
        number = os.read(told, 20)
        for file in (told, tell, ready, go, *files):
            os.close(file)
        link.sendall(number)


def become(asked: dict) -> None:
    """Makes this process what a new one would be."""
    if asked["session"]:
        os.setsid()
    moved = [os.dup2(file, HIGH + index) for index, file in enumerate(asked["files"])]
    for file in asked["files"]:
        os.close(file)
    for file, number in zip(moved, asked["numbers"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    added = [folder for folder in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = [*added, *sys.path]
    if any(os.path.exists(os.path.join(folder, "sitecustomize.py")) for folder in added):
        sys.modules.pop("sitecustomize", None)
        import_module("sitecustomize")


def run(how: str, what: str, arguments: list[str]) -> None:
    """Runs as `python -c` and `python -m` do."""
    if how == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = [what, *arguments]
        sys.modules.pop(what, None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, "")
        sys.argv[:] = ["-c", *arguments]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    here, number = sys.path.pop(0), int(sys.argv[1])
    for name in sys.argv[2:]:
        import_module(name)
    logging.root.handlers.clear()
    gc.collect()
    gc.freeze()
    asked = serve(socket.socket(fileno=number))
    become(asked)
    run(*asked["command"])
