"""Processor time a row in slots, beside the run in one process.

    python -m bench.slots [--model tiny] [--rows 6000] [--rounds 5] [--ray]

Time is counted between the first and the last file of embeddings, over the launcher and all that it
has started, so loading counts for nobody. Runs come by turns; the ratio is the median of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.launched import ON_CPU, Launch, units
from pipelines import sample

ENGINES = {
    "in process": (),
    "one slot": ("--engine", "processes", "--slots", "1"),
    "two slots": ("--engine", "processes", "--slots", "2"),
}
ON_RAY = {"two on Ray": ("--engine", "ray", "--slots", "2", *ON_CPU)}
UNITS = 60  # so that those at work when the first and the last file come weigh little
TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(root: int) -> float:
    """Returns the processor time of a process and of all that it has started, on Linux."""
    times: dict[int, float] = {}
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        process = int(stat.parent.name)
        children[int(fields[1])].append(process)
        times[process] = sum(map(int, fields[11:15])) / TICKS  # those of dead children among them
    found, left = 0.0, [root]
    while left:
        process = left.pop()
        found += times.get(process, 0.0)
        left += children[process]
    return found


def measured(output: Path, flags: Sequence[str], rows: int) -> tuple[float, float]:
    """Returns processor and wall seconds a row, between the first file and the last."""
    launch = Launch(output, flags)
    launch.wait_for_units(1)
    first = (len(list(units(output))), processor_seconds(launch.pid), time.monotonic())
    launch.wait_for_units(UNITS - 1)
    last = (len(list(units(output))), processor_seconds(launch.pid), time.monotonic())
    if launch.end():
        raise RuntimeError(launch.said[-800:])
    rows = (last[0] - first[0]) * rows // UNITS
    return (last[1] - first[1]) / rows, (last[2] - first[2]) / rows


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the bench."""
    flags = argparse.ArgumentParser(description="Measure processor time a row in slots.")
    flags.add_argument("--model", default="tiny")
    flags.add_argument("--rows", type=int, default=6000, help=f"a multiple of {UNITS}")
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--ray", action="store_true", help="also on Ray, on this machine")
    options = flags.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # the same in all
    engines = ENGINES | (ON_RAY if options.ray else {})
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        sample.main(["--output", data, "--rows", str(options.rows)])
        about = ["--manifest", data, "--model", options.model]
        about += ["--rows_per_unit", str(options.rows // UNITS)]
        for number in range(options.rounds):
            for name, engine in engines.items():
                output = Path(folder) / f"{number}-{name}".replace(" ", "-")
                found[name].append(measured(output, [*about, *engine], options.rows))
    for name, runs in found.items():
        processor, wall = (statistics.median(values) for values in zip(*runs, strict=True))
        pairs = zip(runs, found["in process"], strict=True)
        ratio = statistics.median(one[0] / other[0] for one, other in pairs)
        print(
            f"{name:<12} {processor * 1e3:.2f} ms of processor a row, {ratio:.2f} of in process; "
            f"{1 / wall:.0f} rows/s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
