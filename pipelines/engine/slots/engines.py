"""The engine that starts the slots of a run, and what each slot has of its machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipelines.engine.cores import usable_cores
from pipelines.engine.slots.choice import RAY, EngineChoice, Share
from pipelines.engine.slots.processes import Processes
from pipelines.engine.slots.supervisor import Engine
from pipelines.engine.slots.work import Work


@contextmanager
def started(
    choice: EngineChoice, work: Work, tasks: int, gpus: Sequence[str] = ()
) -> Iterator[tuple[Engine, Share]]:
    """Gives the engine and what its slots have, and ends it after the block.

    Args:
        tasks: how many there are; more slots would have nothing to do.
        gpus: of this machine that the work may use; empty if it uses none.

    Raises:
        MissingExtraError, OSError: if the engine is not there.
    """
    if choice.name == RAY:
        from pipelines.engine.slots.ray_actors import ray_engine

        with ray_engine(choice, work, tasks, bool(gpus)) as engine:
            yield engine
    else:
        slots = min(choice.slots or len(gpus) or 1, tasks)
        share = Share(slots, max(1, usable_cores() // slots))
        yield Processes(work, share.cores, tuple(gpus)), share
