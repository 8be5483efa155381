"""Embeds the same drawn rows on every engine, with deaths in the midst, and compares the tables.

    python -m bench.engines [--rows 2000] [--only "two slots"]

A line an engine: rows/s from its start to its end, seconds to the first file, slots that died. It
fails unless all tables are equal within 1e-5 and every run is whole.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.launched import ON_CPU, Launch, deaths, differences, ray_cluster, slots_of
from pipelines import sample

ROWS_PER_UNIT = 50
TWO_SLOTS = ("--engine", "processes", "--slots", "2")


class Failed(AssertionError):
    """A run is not what it should be."""


class Bench:
    """Runs over one manifest.

    Args:
        rows: that are drawn, one in twenty of them broken.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows = folder, rows
        data = str(folder / "data")
        sample.main(["--output", data, "--rows", str(rows), "--broken_rate", "0.05"])
        self.flags = ["--manifest", data, "--model", "tiny"]
        self.flags += ["--rows_per_unit", str(ROWS_PER_UNIT)]
        self.units = -(-rows // ROWS_PER_UNIT)

    def launch(self, name: str, *flags: str) -> Launch:
        """Starts a run."""
        return Launch(self.folder / name.replace(" ", "-"), [*self.flags, *flags])

    def report(self, name: str, launches: Sequence[Launch], note: str = "") -> None:
        """Prints the line of an engine, and compares its tables.

        Raises:
            Failed: if they are not those of the run in one process, or the run is not whole.
        """
        output = launches[0].output
        for launch in launches:
            if launch.end():
                raise Failed(f"{name}: {launch.said[-800:]}")
        if len(launches) > 1:
            closing = Launch(output, [], "finish")
            if closing.end():
                raise Failed(f"{name}: {closing.said[-800:]}")
        found = differences(output, self.folder / "in-process")
        if found or not (output / "_SUCCESS").exists():
            raise Failed(f"{name}: {'; '.join(found) or 'no _SUCCESS'}")
        seconds = max(launch.seconds for launch in launches)
        first = min(launch.first_file or launch.seconds for launch in launches)
        died = sum(len(deaths(launch.said)) for launch in launches)
        print(
            f"{name:<12} {self.rows / seconds:6.1f} rows/s  first file {first:5.1f} s"
            f"  {died} slots died{note}",
            flush=True,
        )


def in_process(bench: Bench) -> None:
    bench.report("in process", [bench.launch("in process")])


def two_slots(bench: Bench) -> None:
    launch = bench.launch("two slots", *TWO_SLOTS)
    launch.wait_for_units(bench.units // 2)
    slots = slots_of(launch.pid)
    subprocess.run(["kill", "-9", str(slots[0])], check=True)
    bench.report("two slots", [launch], ", one killed")


def ray(bench: Bench) -> None:
    with ray_cluster(3) as cluster:
        flags = ("--engine", "ray", "--slots", "3", "--ray_address", cluster.address, *ON_CPU)
        launch = bench.launch("ray", *flags)
        launch.wait_for_units(bench.units // 2)
        working = next(iter(cluster.worker_nodes))  # each of the three holds a slot
        cluster.add_node(num_cpus=1)
        cluster.remove_node(working, allow_graceful=False)
        bench.report("ray", [launch], "; of three nodes one was killed, one added")


def four_parts(bench: Bench) -> None:
    launches = [bench.launch("four parts", "--part", f"{n}/4") for n in range(1, 5)]
    launches[0].wait_for_units(2)
    launches[2].kill()
    launches[2] = bench.launch("four parts", "--part", "3/4")
    bench.report("four parts", launches, ", one part was killed and started again")


def prism(bench: Bench) -> None:
    if not shutil.which("prism"):
        print("prism        skipped: no `prism` is on PATH", flush=True)
        return
    flags = ("--runner", "PrismRunner", "--prism_location", str(shutil.which("prism")))
    bench.report("prism", [bench.launch("prism", *flags, *ON_CPU)])


ENGINES: dict[str, Callable[[Bench], None]] = {
    "in process": in_process,
    "two slots": two_slots,
    "ray": ray,
    "four parts": four_parts,
    "prism": prism,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the bench; returns 1 if an engine has failed."""
    flags = argparse.ArgumentParser(description="Embed the same rows on every engine.")
    flags.add_argument("--rows", type=int, default=2000)
    flags.add_argument("--only", action="append", choices=list(ENGINES), help="engine; repeatable")
    options = flags.parse_args(argv)
    chosen = ["in process", *(options.only or ENGINES)]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.rows)
        for name in dict.fromkeys(chosen):
            try:
                ENGINES[name](bench)
            except Failed as error:
                print(f"FAILED       {error}", flush=True)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
