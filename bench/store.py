"""What an object store costs beside the disk, from a stand-in: `python -m bench.store`.

One process embeds the same rows from and to the stand-in, and from and to the disk, by turns. Rates
are from the first encoded batch to the last; processor time is the process's, the stand-in's is
told apart. Printed are the medians of the rounds, and of the ratios of runs that are neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.marked import embed_marked
from bench.pairs import make_pairs
from bench.stand_in_process import ENVIRONMENT, StandInProcess
from bench.store_faults import print_faults
from bench.store_peaks import print_peaks, write_huge
from bench.store_peers import print_peers
from pipelines.samples.scenes import random_scene, render, scene_rng, to_jpeg

DISTINCT = 200
ROWS_PER_UNIT = 10_000


@dataclass(frozen=True)
class Figures:
    """What one run took.

    Attributes:
        rate: rows a second, from the first encoded batch to the last.
        cpu_ms: of this process a row, in that time.
        store: what the stand-in told.
    """

    rate: float
    cpu_ms: float
    store: dict[str, Any]


def write_rows(folder: Path, rows: int, large: bool) -> None:
    """Writes images and a JSONL that names them."""
    (folder / "images").mkdir(parents=True)
    images = [image for image, _ in make_pairs(DISTINCT)] if large else _scenes()
    with open(folder / "manifest.jsonl", "w") as file:
        for number in range(rows):
            name = f"images/{number:06d}.jpg"
            (folder / name).write_bytes(images[number % len(images)])
            line = {"uid": f"{number:06d}", "url": name, "text": f"a circle {number}"}
            file.write(json.dumps(line) + "\n")


def _scenes() -> list[bytes]:
    """Returns drawn images of some kB."""
    found = []
    for number in range(DISTINCT):
        rng = scene_rng(0, number)
        found.append(to_jpeg(render(random_scene(rng), rng, 256), rng))
    return found


def run(
    manifest: str,
    output: str,
    store: StandInProcess,
    settings: dict[str, Any],
    options: argparse.Namespace,
) -> Figures:
    """Embeds once.

    Raises:
        SystemExit: if the run fails.
    """
    store.set(**settings)
    marks = embed_marked(manifest, output, options.rows_per_unit, not options.no_model)
    (first, first_cpu, rows), (last, last_cpu, _) = marks[0], marks[-1]
    done = sum(count for _, _, count in marks) - rows
    return Figures(done / (last - first), 1e3 * (last_cpu - first_cpu) / done, store.stats())


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    options = _flags().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = root / "bucket" / "data"
        if options.peaks:
            write_huge(data, options.rows)
        else:
            write_rows(data, options.rows, options.large)
        if options.faults:
            print_faults(data / "manifest.jsonl", options.rows)
            return
        store = StandInProcess(root)
        os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL_S3=store.url)
        os.environ["STORAGE_EMULATOR_HOST"] = store.url
        try:
            if options.peers:
                print_peers(root, store, options)
            elif options.peaks:
                print_peaks(root, store, options.latency)
            else:
                _measure(root, store, options)
        finally:
            store.stop()


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rows", type=int, default=6000)
    flags.add_argument("--rows_per_unit", type=int, default=ROWS_PER_UNIT)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--latency", type=float, default=0.05, metavar="SECONDS")
    flags.add_argument("--large", action="store_true", help="web images instead of small ones")
    flags.add_argument("--no_model", action="store_true", help="fetch and decode, no more")
    flags.add_argument("--scheme", choices=("s3", "gs"), default="s3")
    flags.add_argument("--settings", type=json.loads, default={}, metavar="JSON",
                       help="further ones of the stand-in, such as throttle or share")  # fmt: skip
    others = flags.add_mutually_exclusive_group()
    others.add_argument("--peers", action="store_true", help="Ray Data and Daft beside it")
    others.add_argument("--faults", action="store_true", help="compare tables through each fault")
    others.add_argument("--peaks", action="store_true", help="memory with images of 20 MB")
    flags.add_argument("--peers_python", default=sys.executable, metavar="PATH",
                       help="interpreter with the peers that this one lacks")  # fmt: skip
    return flags


def _measure(root: Path, store: StandInProcess, options: argparse.Namespace) -> None:
    disk, there = [], []
    settings = {"latency": options.latency, **options.settings}
    bucket = f"{options.scheme}://bucket"
    for number in range(options.rounds + 1):
        here = run(f"{root}/bucket/data/manifest.jsonl", f"{root}/out", store, {}, options)
        away = run(f"{bucket}/data/manifest.jsonl", f"{bucket}/out", store, settings, options)
        if number:  # the first one warms up
            disk.append(here)
            there.append(away)
            print(f"disk {here.rate:.0f} rows/s, store {away.rate:.0f}", file=sys.stderr)
    _print(disk, there, options.rows)


def _print(disk: list[Figures], there: list[Figures], rows: int) -> None:
    for name, found in (("disk", disk), ("store", there)):
        rate = statistics.median(one.rate for one in found)
        cpu_ms = statistics.median(one.cpu_ms for one in found)
        print(f"{name:<8}{rate:10.1f} rows/s{cpu_ms:8.2f} ms of processor a row")
    last = there[-1].store
    print(
        f"{last['requests'] / rows:.3f} requests a row, {last['most_in_flight']} in flight at most"
    )
    print(f"the stand-in: {last['cpu_us']:.0f} us a request; faults {last['faults']}")
    pairs = list(zip(disk, there, strict=True))
    ratio = statistics.median(away.rate / here.rate for here, away in pairs)
    more = statistics.median(
        away.cpu_ms - here.cpu_ms + 1e3 * away.store["cpu_s"] / rows for here, away in pairs
    )
    print(f"store / disk {ratio:.2f}; {more:.2f} ms of processor a row more, stand-in included")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB, {threading.active_count()} threads")


if __name__ == "__main__":
    main()
