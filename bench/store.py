"""What an object store costs beside the disk, from a stand-in: `python -m bench.store`.

One process embeds the same rows from and to the stand-in, and from and to the disk, by turns. Rates
are from the first encoded batch to the last; processor time is the process's, the stand-in's is
told apart. Printed are the medians of the rounds, and of the ratios of runs that are neighbours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pairs import make_pairs
from bench.quiet import embed_quietly
from bench.store_faults import print_faults
from pipelines.encoding import handler
from pipelines.samples.scenes import random_scene, render, scene_rng, to_jpeg

DISTINCT = 200
ROWS_PER_UNIT = 10_000
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "stand-in", "AWS_SECRET_ACCESS_KEY": "stand-in",
    "AWS_DEFAULT_REGION": "us-east-1", "NO_GCE_CHECK": "true",
}  # fmt: skip


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


class StandInProcess:
    """The stand-in in a process of its own; it holds what lies in a folder, a folder a bucket."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "bench.stand_in_store", "0", str(root)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def set(self, **settings: object) -> None:
        """Behaves so from now on, and counts anew."""
        body = json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_set", body)).read()

    def stats(self) -> dict[str, Any]:
        """Returns what was asked since then."""
        return dict(json.load(urllib.request.urlopen(f"{self.url}/_stats")))

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


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


@contextlib.contextmanager
def _marks() -> Iterator[list[tuple[float, float, int]]]:
    """Notes wall and processor time when a batch has been encoded, and its rows."""
    marks: list[tuple[float, float, int]] = []
    encode = handler.encode_rows

    def marked(rows: Any, *arguments: Any) -> Any:
        found = encode(rows, *arguments)
        marks.append((time.perf_counter(), time.process_time(), len(rows)))
        return found

    handler.encode_rows = marked  # type: ignore[assignment]
    try:
        yield marks
    finally:
        handler.encode_rows = encode


def run(
    manifest: str,
    output: str,
    store: StandInProcess,
    settings: dict[str, Any],
    rows_per_unit: int = ROWS_PER_UNIT,
) -> Figures:
    """Embeds once.

    Raises:
        SystemExit: if the run fails.
    """
    store.set(**settings)
    argv = ["--manifest", manifest, "--output", output, "--model", "tiny", "--overwrite"]
    argv += ["--rows_per_unit", str(rows_per_unit)]
    with _marks() as marks:
        embed_quietly([*argv, "--scores_only"])
    (first, first_cpu, rows), (last, last_cpu, _) = marks[0], marks[-1]
    done = sum(count for _, _, count in marks) - rows
    return Figures(done / (last - first), 1e3 * (last_cpu - first_cpu) / done, store.stats())


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rows", type=int, default=6000)
    flags.add_argument("--rows_per_unit", type=int, default=ROWS_PER_UNIT)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--latency", type=float, default=0.05, metavar="SECONDS")
    flags.add_argument("--large", action="store_true", help="web images instead of small ones")
    flags.add_argument("--scheme", choices=("s3", "gs"), default="s3")
    flags.add_argument("--faults", action="store_true", help="compare tables through each fault")
    flags.add_argument("--settings", type=json.loads, default={}, metavar="JSON",
                       help="further ones of the stand-in, such as throttle or share")  # fmt: skip
    options = flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_rows(root / "bucket" / "data", options.rows, options.large)
        if options.faults:
            print_faults(root / "bucket" / "data" / "manifest.jsonl", options.rows)
            return
        store = StandInProcess(root)
        os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL_S3=store.url)
        os.environ["STORAGE_EMULATOR_HOST"] = store.url
        try:
            _measure(root, store, options)
        finally:
            store.stop()


def _measure(root: Path, store: StandInProcess, options: argparse.Namespace) -> None:
    disk, there = [], []
    settings = {"latency": options.latency, **options.settings}
    bucket = f"{options.scheme}://bucket"
    for number in range(options.rounds + 1):
        step = options.rows_per_unit
        here = run(f"{root}/bucket/data/manifest.jsonl", f"{root}/out", store, {}, step)
        away = run(f"{bucket}/data/manifest.jsonl", f"{bucket}/out", store, settings, step)
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
