"""Which slots a machine or a cluster gets, and the engine that starts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.engine.cores import usable_cores
from pipelines.engine.slots.choice import RAY, EngineChoice
from pipelines.engine.slots.processes import Processes
from pipelines.engine.slots.supervisor import Engine
from pipelines.engine.slots.work import Work


@dataclass(frozen=True)
class Share:
    """What the slots of a run have.

    Attributes:
        slots: how many there are.
        cores: of each.
        gpus: that they share out, as CUDA_VISIBLE_DEVICES names them.
    """

    slots: int
    cores: int
    gpus: tuple[str, ...] = ()


def share_of(choice: EngineChoice, gpus: Sequence[str] = ()) -> Share:
    """Decides how many slots this machine gets, and what each has of it.

    Args:
        gpus: that the work may use; empty if it uses none.
    """
    if not choice.has_slots:
        return Share(1, usable_cores())
    slots = choice.slots or len(gpus) or 1
    return Share(slots, max(1, usable_cores() // slots), tuple(gpus))


@contextmanager
def started(choice: EngineChoice, work: Work, share: Share) -> Iterator[Engine]:
    """Gives the engine, and ends it after the block."""
    if choice.name == RAY:
        from pipelines.engine.slots.ray_actors import ray_engine

        with ray_engine(choice.ray_address, work, share.cores, bool(share.gpus)) as engine:
            yield engine
    else:
        yield Processes(work, share.cores, share.gpus)
