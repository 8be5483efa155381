"""Runs of `embed` as processes, to be watched, killed and compared."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

TOLERANCE = 1e-5
PATIENCE_S = 600.0
ON_CPU = ("--device", "cpu", "--precision", "fp32")  # of workers on other machines


class Launch:
    """A launcher that was started.

    Args:
        flags: of the command, all but the output.
        program: that runs commands.

    Attributes:
        output: that it writes.
        seconds: from its start to its end, once it has ended.
        first_file: seconds from its start to the first file of embeddings, once one was seen.
    """

    def __init__(
        self,
        output: Path,
        flags: Sequence[str],
        command: str = "embed",
        program: Sequence[str] = ("-m", "pipelines.cli"),
    ) -> None:
        self.output, self.first_file, self.seconds = output, 0.0, 0.0
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        argv = [sys.executable, *program, command, "--output", str(output), *flags]
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            argv, stdout=self._log, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1]
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_over(self) -> bool:
        """Tells whether it has ended; notes the first file meanwhile."""
        if not self.first_file and next(iter(units(self.output)), None):
            self.first_file = time.monotonic() - self._began
        return self._process.poll() is not None

    def wait_for_units(self, count: int) -> bool:
        """Waits until so many units are there; returns whether it still runs then."""
        return self._wait(lambda: len(list(units(self.output))) >= count)

    def end(self) -> int:
        """Waits for the end; returns the exit status."""
        self._wait(lambda: False)
        self.seconds = time.monotonic() - self._began
        return int(self._process.wait())

    def kill(self) -> None:
        """Kills it at once, with no warning."""
        self._process.kill()
        self._process.wait()

    @property
    def said(self) -> str:
        """What it has printed."""
        self._log.seek(0)
        return self._log.read()

    def _wait(self, until: Any) -> bool:
        limit = time.monotonic() + PATIENCE_S
        while not self.is_over():
            if until():
                return True
            if time.monotonic() > limit:
                self.kill()
                raise TimeoutError(f"the run to {self.output} did not end: {self.said[-800:]}")
            time.sleep(0.02)
        return False


def units(output: Path) -> Iterator[Path]:
    """Yields the files of embeddings that are there."""
    return (output / "embeddings").glob("*.parquet")


def is_alive(process: int) -> bool:
    """Tells whether a process works, on Linux."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def slots_of(launcher: int) -> list[int]:
    """Returns the living processes that a process has started, on Linux."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == launcher and state != "Z":
            found.append(int(stat.parent.name))
    return found


def table(output: Path, name: str) -> pa.Table:
    """Reads one of the two tables of a run, in the order of the manifest."""
    folder = output / name
    if not any(folder.glob("*.parquet")):
        return pa.table({})
    return (
        ds.dataset(folder)
        .to_table()
        .sort_by([("source", "ascending"), ("source_row", "ascending")])
    )


def differences(output: Path, expected: Path) -> list[str]:
    """Says in what the tables of two runs of one manifest differ; nothing if they are equal."""
    found = []
    for name in ("embeddings", "rejects"):
        one, other = table(output, name), table(expected, name)
        if one.num_rows != other.num_rows or (one.num_rows and one["uid"] != other["uid"]):
            found.append(f"{name}: {one.num_rows} rows, expected {other.num_rows}, or other ids")
        elif name == "rejects" and one.num_rows and one["reason"] != other["reason"]:
            found.append("rejects: other reasons")
        elif name == "embeddings":
            for column in ("image_embedding", "text_embedding", "similarity"):
                values = [np.array(part[column].to_pylist()) for part in (one, other)]
                if np.abs(values[0] - values[1]).max(initial=0) > TOLERANCE:
                    found.append(f"{column}: values differ")
    if list(output.rglob(".partial-*")):
        found.append("partial files are left")
    return found


def deaths(said: str) -> list[int]:
    """Returns how many units each slot held of which a launcher tells that it has died."""
    told = r"slot \d+ has died: .*?; (?:what it held is given again \((\d+)\)|it held nothing)"
    return [int(count or 0) for count in re.findall(told, said, re.DOTALL)]


@contextmanager
def ray_cluster(nodes: int, health_check_s: float | None = 0.5) -> Iterator[Any]:
    """Starts a Ray cluster of nodes of one core each on this machine.

    Args:
        health_check_s: seconds after which a silent node counts as dead; None for Ray's own.
    """
    import ray
    from ray.cluster_utils import Cluster

    period = int((health_check_s or 0) * 1000)
    names = ("initial_delay", "period", "timeout")
    config = {f"health_check_{name}_ms": period for name in names} if period else {}
    settings = {"_system_config": config | {"health_check_failure_threshold": 2}} if period else {}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **settings})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
