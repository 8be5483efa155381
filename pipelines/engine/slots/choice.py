"""The flags that say what runs the work: this process, slots of this machine, or those of Ray."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

LOCAL, PROCESSES, RAY = "local", "processes", "ray"


@dataclass(frozen=True)
class EngineChoice:
    """What runs the work.

    Attributes:
        name: `local`, `processes` or `ray`; None where a runner of Beam was named.
        slots: how many; None for one a GPU, else one.
        ray_address: of a cluster; None to start one on this machine.
    """

    name: str | None = LOCAL
    slots: int | None = None
    ray_address: str | None = None

    @property
    def has_slots(self) -> bool:
        """Whether a supervisor gives the work to slots."""
        return self.name in (PROCESSES, RAY)

    @property
    def is_here(self) -> bool:
        """Whether the workers are on this machine, so that its devices are theirs."""
        return self.name in (LOCAL, PROCESSES) or (self.name == RAY and not self.ray_address)


@dataclass(frozen=True)
class Share:
    """What the slots of a run have.

    Attributes:
        slots: how many there are.
        cores: of each.
    """

    slots: int
    cores: int


def add_engine_flags(add: Any) -> None:
    """Adds the flags.

    Args:
        add: `add_argument` of a parser or a group of one.
    """
    add(
        "--engine",
        choices=(LOCAL, PROCESSES, RAY),
        help="what runs the work: this process, several of this machine, or a Ray cluster [local]",
    )
    add(
        "--slots",
        type=int,
        metavar="N",
        help="processes or Ray actors that work at once [one a GPU, else one]",
    )
    add(
        "--ray_address",
        metavar="ADDRESS",
        help="Ray cluster to work on, such as auto or HOST:PORT [a new one on this machine]",
    )


def engine_choice(found: argparse.Namespace, runner: str | None) -> EngineChoice:
    """Checks the flags.

    Args:
        runner: of Beam, where one was named that is not of this process.

    Raises:
        ValueError: if they do not fit together.
    """
    if runner and found.engine:
        raise ValueError(
            f"`engine={found.engine!r}` runs the work itself and `--runner {runner}` hands it to "
            "Beam; leave one out"
        )
    choice = EngineChoice(None if runner else found.engine or LOCAL, found.slots, found.ray_address)
    if choice.slots is not None and choice.slots < 1:
        raise ValueError(f"`slots` must be a positive int, got {choice.slots}")
    if choice.slots is not None and not choice.has_slots:
        raise ValueError("`slots` needs `engine='processes'` or `engine='ray'`")
    if choice.name == RAY and find_spec("ray") is None:
        raise ValueError("`engine='ray'` needs an extra; run `pip install \"clip-beam[ray]\"`")
    if choice.ray_address and choice.name != RAY:
        raise ValueError("`ray_address` needs `engine='ray'`")
    return choice
