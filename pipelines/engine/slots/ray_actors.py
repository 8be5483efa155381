"""Slots that are actors of Ray, on whatever nodes a cluster has.

Ray's own retries and restarts are off: the supervisor counts, and makes a new actor. What a slot
says comes by a stream of its actor's, and what the supervisor says goes by calls beside it.
"""

from __future__ import annotations

import os
import pickle
import queue
import re
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from pipelines.command_line.optional_packages import require
from pipelines.engine.cores import usable_cores, use_cores
from pipelines.engine.slots.choice import EngineChoice, Share
from pipelines.engine.slots.messages import Dead, Failed
from pipelines.engine.slots.work import Work

# What Ray says where the node, or the way to it, was lost, and not the actor.
_OF_THE_NODE = ("node has died", "node died", "node was terminated", "ActorUnavailable", "preempt")
_MAX_WORDS = 400
CONNECT_S = 10.0
_OMP = "OMP_NUM_THREADS"
# Variables that reach the slots; credentials do not travel, nodes have their own.
_ENVIRONMENT = (
    *(_OMP, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "STORAGE_EMULATOR_HOST"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
)


@contextmanager
def ray_engine(
    choice: EngineChoice, work: Work, tasks: int, on_gpus: bool
) -> Iterator[tuple[Actors, Share]]:
    """Attaches to a cluster, or starts one on this machine, for the time of the block.

    Args:
        tasks: how many there are; more slots would have nothing to do.
        on_gpus: whether each slot needs one.

    Raises:
        MissingExtraError: if Ray is not installed.
        OSError: if there is no such cluster.
    """
    ray = require("ray", "slots on Ray", "ray")
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # Ray prints "(raylet) ..."
        _connect(ray, choice.ray_address)
        try:
            share = _share(ray, choice, tasks, on_gpus)
            # Where nodes are this machine, modules are found where this process finds them.
            paths = tuple(sys.path) if choice.ray_address is None else ()
            yield Actors(ray, work, share.cores, on_gpus, paths), share
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    root = Path(__file__).parents[3]
    modules = [str(root / name) for name in ("clip_core", "pipelines", "schemas")]
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        if address is None:
            ray.init("local", num_cpus=usable_cores(), runtime_env={"env_vars": env}, **quiet)
        else:
            if found := re.fullmatch(r"([^:/]+):([0-9]+)", address):  # Ray itself would wait for it
                socket.create_connection((found[1], int(found[2])), CONNECT_S).close()
            del quiet["include_dashboard"]  # of a cluster that is there already
            ray.init(address, runtime_env={"env_vars": env, "py_modules": modules}, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:_MAX_WORDS]
        raise OSError(
            f"no Ray cluster can be used at {address or 'this machine'}: {words}"
        ) from error


def _share(ray: Any, choice: EngineChoice, tasks: int, on_gpus: bool) -> Share:
    """Decides how many slots a cluster gets: one a GPU, else one a node, and none in vain."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes)) if on_gpus else 0
    slots = min(choice.slots or gpus or len(nodes), tasks)
    cores = sum(node.get("CPU", 0) for node in nodes) // slots
    largest = max((node.get("CPU", 0) for node in nodes), default=1)
    return Share(slots, int(max(1, min(cores, largest))))


@dataclass(frozen=True)
class Actors:
    """Starts slots on the cluster that this process is attached to.

    Attributes:
        work: what they do.
        cores: that each may use.
        on_gpus: whether each gets a GPU of its own.
        paths: where modules are found; empty for where Ray finds them.
    """

    ray: Any
    work: Work
    cores: int
    on_gpus: bool
    paths: tuple[str, ...] = ()

    def start(self, number: int, inbox: queue.SimpleQueue[Any]) -> ActorSlot:
        """Starts a slot as soon as there is room; its messages come to the inbox, each as
        (slot, message)."""
        kind = self.ray.remote(
            num_cpus=self.cores,
            num_gpus=int(self.on_gpus),
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,
            scheduling_strategy="SPREAD",
        )(_Actor)
        return ActorSlot(self.ray, kind.remote(), self, inbox)


class ActorSlot:
    """A slot, as its supervisor has hold of it."""

    def __init__(self, ray: Any, actor: Any, engine: Actors, inbox: queue.SimpleQueue[Any]) -> None:
        self._ray, self._actor = ray, actor
        stream = actor.messages.options(num_returns="streaming").remote(
            cloudpickle.dumps(engine.work), engine.cores, _OMP in os.environ, engine.paths
        )
        threading.Thread(target=self._listen, args=(stream, inbox), daemon=True).start()

    def send(self, message: Any) -> None:
        """Sends a message; nothing happens if the slot is gone: that it died is on its way."""
        with suppress(self._ray.exceptions.RayError):
            self._actor.hear.remote(message)

    def kill(self) -> None:
        """Ends the actor at once."""
        self._ray.kill(self._actor)

    def _listen(self, stream: Any, inbox: queue.SimpleQueue[Any]) -> None:
        why, own = "its actor ended", True
        try:
            for reference in stream:
                inbox.put((self, self._ray.get(reference)))
        except self._ray.exceptions.RayError as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MAX_WORDS]
            own = not any(words in why for words in _OF_THE_NODE)
        with suppress(Exception):  # one that is only out of reach must not go on
            self.kill()
        inbox.put((self, Dead(why, own)))


class _Actor:
    """The process of a slot."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def hear(self, message: Any) -> None:
        """Takes what the supervisor says."""
        self._orders.put(message)

    def messages(
        self, work: bytes, cores: int, is_bound: bool, paths: Sequence[str]
    ) -> Iterator[Any]:
        """Lives a slot's life, and yields what it says.

        Args:
            work: pickled.
            is_bound: whether the user says how many threads torch gets; else Ray has said one.
            paths: where modules are found; empty for where Ray finds them.
        """
        sys.path[:] = paths or sys.path
        if not is_bound:
            os.environ.pop(_OMP, None)
        use_cores(cores)  # before anything is imported that counts them
        said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._live, args=(work, said), daemon=True).start()
        while (message := said.get()) is not None:
            yield message

    def _live(self, work: bytes, said: queue.SimpleQueue[Any]) -> None:
        from pipelines.engine.memory import return_freed_memory
        from pipelines.engine.slots.desk import live
        from pipelines.storage.redaction import own_process

        own_process()
        return_freed_memory()
        try:
            live(pickle.loads(work), said.put, self._orders.get)  # made by this very run
        except Exception as error:  # a module that is not there, perhaps
            said.put(Failed(f"the work does not reach the slot: {type(error).__name__}: {error}"))
        said.put(None)
