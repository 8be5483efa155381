"""Kills slots, nodes, launchers or several of them while units are in flight, and looks what is left.

    python tests/torture/chaos.py [--runs 50] [--seed 0] [--rows 400]

Each run is started again until it is whole. It fails unless its tables equal those of an undisturbed
run, no `_SUCCESS` came before its time, no partial file is left, and no more units were begun twice
than were in flight at the kills. Every fifth run is on Ray, with three nodes; where Ray takes a slow
node for dead, as its launcher tells, what that slot held at most counts as in flight, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from bench.launched import (  # noqa: E402
    ON_CPU,
    Launch,
    deaths,
    differences,
    is_alive,
    ray_cluster,
    units,
)
from pipelines import sample  # noqa: E402

ROWS_PER_UNIT = 10
STARTS = 8  # of one run at most
PROGRAM = (str(Path(__file__).with_name("chaos_program.py")),)


class Chaos:
    """One run, from its first start until it is whole.

    Attributes:
        in_flight: units that were begun and had no name when what worked on them was gone.
        struck: processes that were killed under the launcher of now.
        unasked: of each slot that died and was not killed here, the units that it held at most.
    """

    def __init__(self, folder: Path, seed: int, flags: Sequence[str], cluster: Any) -> None:
        self._expected = folder / "whole"
        self.output, self._log = folder / f"run-{seed}", folder / f"begun-{seed}.jsonl"
        self._random, self._flags, self._cluster = random.Random(seed), list(flags), cluster
        self.in_flight = self.kills = self.struck = 0
        self.unasked: list[int] = []

    def begun(self) -> list[tuple[int, str]]:
        """Returns process and unit of each beginning."""
        if not self._log.exists():
            return []
        lines = [line for line in self._log.read_text().splitlines() if line.endswith("]")]
        return [(process, unit) for _, process, unit in map(json.loads, lines)]

    def whole(self) -> None:
        """Starts the run until it is whole; kills what is drawn meanwhile.

        Raises:
            AssertionError: if something is not as it should be.
        """
        for _ in range(STARTS):
            os.environ["CHAOS_LOG"] = str(self._log)
            launch, self.struck = Launch(self.output, self._flags, program=PROGRAM), 0
            there = len(list(units(self.output)))
            for _ in range(self._random.choice((1, 1, 2))):
                if not launch.wait_for_units(there + self._random.randint(1, 12)):
                    break
                time.sleep(self._random.random() / 4)
                if self._strike(launch):
                    break
            status = launch.end()
            died = sorted(deaths(launch.said))
            self.unasked += died[self.struck :]
            if status == 0:
                return
            is_early = (self.output / "_SUCCESS").exists() and differences(
                self.output, self._expected
            )
            assert not is_early, "`_SUCCESS` came before its time"
        raise AssertionError(f"not whole after {STARTS} starts: {launch.said[-500:]}")

    def _strike(self, launch: Launch) -> bool:
        """Kills something; returns whether that was the launcher."""
        processes = sorted({process for process, _ in self.begun() if is_alive(process)})
        what = self._random.choice(("slot", "slot", "launcher", "both", "node"))
        if self.kills >= 4 or launch.is_over():
            return False
        self.kills += 1
        struck = [self._random.choice(processes)] if processes and what != "launcher" else []
        if what == "node" and self._cluster is not None:
            struck = processes  # whichever of them were on it
            nodes = sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id)
            self._cluster.remove_node(self._random.choice(nodes), allow_graceful=False)
            self._cluster.add_node(num_cpus=1)
        else:
            for process in struck:
                end(process)
        is_launcher = what in ("launcher", "both")
        if is_launcher:
            launch.kill()
            struck = processes
        self.struck += len(struck)
        for process in struck:
            wait_until_gone(process, 5 if is_launcher else 0.5)
        named = {path.stem for path in units(self.output)}
        self.in_flight += len({u for p, u in self.begun() if p in struck and u not in named})
        return is_launcher

    def check(self) -> str:
        """Compares what the run has left; returns a line about it."""
        found = differences(self.output, self._expected)
        begun = Counter(unit for _, unit in self.begun())
        twice = begun.total() - len(begun)
        excused = sum(self.unasked) if self._cluster is not None else 0
        if twice > self.in_flight + excused:
            found.append(
                f"{twice} units were begun twice, {self.in_flight} were in flight, and "
                f"{len(self.unasked)} slots died by themselves"
            )
        if not (self.output / "_SUCCESS").exists() or (self.output / "_RUNNING").exists():
            found.append("no _SUCCESS, or a lock is left")
        assert not found, "; ".join(found)
        unasked = f", {len(self.unasked)} slots died by themselves" if self.unasked else ""
        return f"{self.kills} kills, {self.in_flight} units in flight, {twice} begun twice{unasked}"


def end(process: int) -> None:
    """Kills a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def wait_until_gone(process: int, seconds: float) -> None:
    """Waits for a process to end; a launcher's death must end its slots within five seconds."""
    until = time.monotonic() + seconds
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.02)


def run(runs: int, seed: int, rows: int, folder: Path) -> int:
    """Makes so many runs; returns how many have failed."""
    data = str(folder / "data")
    sample.main(["--output", data, "--rows", str(rows), "--broken_rate", "0.05"])
    flags = ["--manifest", data, "--model", "tiny", "--rows_per_unit", str(ROWS_PER_UNIT)]
    whole = Launch(folder / "whole", flags)
    assert whole.end() == 0, whole.said
    failed = 0
    for number in range(seed, seed + runs):
        on_ray = number % 5 == 4
        try:
            line = (
                on_a_cluster(folder, number, flags)
                if on_ray
                else on_processes(folder, number, flags)
            )
            print(f"run {number:3} {'ray' if on_ray else 'processes':<10} {line}", flush=True)
        except (AssertionError, TimeoutError) as error:
            failed += 1
            print(f"run {number:3} FAILED: {error}", flush=True)
    return failed


def on_processes(folder: Path, seed: int, flags: Sequence[str]) -> str:
    slots = ("--engine", "processes", "--slots", "2")
    return finished(Chaos(folder, seed, [*flags, *slots], None))


def on_a_cluster(folder: Path, seed: int, flags: Sequence[str]) -> str:
    with ray_cluster(3) as cluster:
        slots = ("--engine", "ray", "--slots", "2", "--ray_address", cluster.address, *ON_CPU)
        return finished(Chaos(folder, seed, [*flags, *slots], cluster))


def finished(chaos: Chaos) -> str:
    chaos.whole()
    return chaos.check()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the torture; returns 1 if a run has failed."""
    flags = argparse.ArgumentParser(
        description="Kill runs in slots and see that they become whole."
    )
    flags.add_argument("--runs", type=int, default=50)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--rows", type=int, default=400)
    options = flags.parse_args(argv)
    # Nodes of a cluster find the program's modules there.
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    with tempfile.TemporaryDirectory() as folder:
        failed = run(options.runs, options.seed, options.rows, Path(folder))
    print(f"{options.runs - failed} of {options.runs} runs are right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
