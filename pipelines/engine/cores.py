"""How many cores this process may use, and how its threads share them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Threads that fetch wait for stores most of the time: at 50 ms an image, two fetch 40 a second.
MIN_FETCH_THREADS = 16
# Up to this size a second thread costs a model as much at each barrier as it saves. `tiny` has 2
# million parameters, the smallest published model 102 million.
SMALL_MODEL_PARAMETERS = 20_000_000
_V2, _V1 = "cpu.max", ("cpu.cfs_quota_us", "cpu.cfs_period_us")


_share: list[int] = []  # of the machine's cores, where this process is one of several


@dataclass(frozen=True)
class Threads:
    """How many threads each kind of work of a process gets.

    Attributes:
        cores: that the process may use.
        torch: that compute one batch; None where the user's `OMP_NUM_THREADS` decides.
        decode: images that are decoded at once.
        fetch: rows that are fetched at once.
    """

    cores: int
    torch: int | None
    decode: int
    fetch: int

    def __str__(self) -> str:
        torch = self.torch or f"{os.environ['OMP_NUM_THREADS']} (OMP_NUM_THREADS)"
        return f"torch {torch}, decode {self.decode}, fetch {self.fetch} on {self.cores} cores"


def threads_for(
    parameters: int = 0, *, training: bool = False, cores: int | None = None
) -> Threads:
    """Decides how many threads torch, decoding and fetching get.

    Decoding may have all cores beside torch: it works ahead while a batch is encoded, and waits
    once its window is full.

    Args:
        parameters: of the run's largest model; 0 when no model is run.
        training: whether it is trained, in batches that are worth all cores whatever its size.
        cores: that the process may use; None for those of this one.
    """
    cores = cores or usable_cores()
    torch = cores if training or parameters > SMALL_MODEL_PARAMETERS else 1
    return Threads(
        cores=cores,
        torch=None if os.environ.get("OMP_NUM_THREADS") else torch,
        decode=cores,
        fetch=max(MIN_FETCH_THREADS, cores),
    )


def use_cores(count: int) -> None:
    """Lets this process use so many cores at most: its share, where several share the machine."""
    _share[:] = [count]


def usable_cores(root: Path = Path("/")) -> int:
    """Returns how many cores' worth of time this process gets, at least 1.

    That is the least of what the machine has, of the cores it is pinned to, and of the quotas of
    its control group and of all groups around it (cgroups v1 and v2), rounded up, and of the share
    that `use_cores` was told.

    Args:
        root: where `proc` and `sys` are.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *map(math.ceil, _quotas(root)), *_share]))


def _quotas(root: Path) -> Iterator[float]:
    """Yields the quota, in cores, of each control group around this process that has one."""
    for group in _groups(root):
        with suppress(OSError, ValueError, ZeroDivisionError):
            if (group / _V2).exists():
                quota, period = (group / _V2).read_text().split()
            else:
                quota, period = ((group / name).read_text() for name in _V1)
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)


def _groups(root: Path) -> Iterator[Path]:
    """Yields the directories of this process's group and of those around it.

    In a container they may not lie under the path that the host calls them by; its own group is
    then the root of the mount, which is always among them.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mounts = ("cgroup",) if not controllers else (f"cgroup/{controllers}", "cgroup/cpu")
            if not controllers or "cpu" in controllers.split(","):
                inside = PurePosixPath(path.lstrip("/"))
                for mount in mounts:
                    for part in (inside, *inside.parents):
                        yield root / "sys/fs" / mount / part
