"""Rates beside other busy processes, and on one core: `python -m bench.neighbours`.

Each figure is the rows a second of a whole process, from its models being loaded to its end, the
median of interleaved rounds. open_clip's loop runs as its users run it, without the bound on
OpenMP's spinning that `clip_core.openmp` sets. What is not installed is named as such.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.pairs import make_pairs, random_model, write_tars
from bench.peers import PeerMissing, Work, open_clip
from clip_core.openmp import DECIDED_BY

PLAIN = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}  # the libraries' own defaults
PLACES = {
    "alone": (0, ()),
    "beside one": (1, ()),
    "beside two": (2, ()),
    "on one core": (0, ("taskset", "-c", "0")),
}
SETTINGS = {
    "as it is": {},
    "spinning": PLAIN,
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin count 20": {"GOMP_SPINCOUNT": "20"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
# What is compared in each place; the rest is left out, as a round takes minutes.
COMPARED = {
    "alone": tuple(SETTINGS),
    "beside one": ("as it is", "spinning"),
    "beside two": ("as it is",),
    "on one core": ("as it is", "one thread"),
}
BUSY = "while True: pass"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table for each model."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--rows", type=int, default=2000, help="for `tiny`")
    flags.add_argument("--pairs", type=int, default=128, help="for a ViT-B/32")
    flags.add_argument("--peer", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = flags.parse_args(argv)
    if options.peer:
        print(_open_clip_rate(options.peer))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, manifest in _jobs(folder, options.rows, options.pairs).items():
            _print_table(model, _measure(folder, model, manifest, options.rounds))


def _jobs(folder: Path, rows: int, pairs: int) -> dict[str, Path]:
    """Makes a model and two datasets; returns the manifest of each model."""
    tars = folder / "tars"
    tars.mkdir()
    write_tars(make_pairs(pairs), tars, rows=64)
    vit = random_model(folder / "ViT-B-32", "ViT-B/32")
    sample = ["sample", "--output", str(folder / "sample"), "--rows", str(rows)]
    subprocess.run([sys.executable, "-m", "pipelines.cli", *sample], check=True, stdout=sys.stderr)
    return {"tiny": folder / "sample", str(vit): tars}


def _measure(
    folder: Path, model: str, manifest: Path, rounds: int
) -> dict[tuple[str, str], list[float]]:
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for place, (neighbours, pinned) in PLACES.items():
            for setting in COMPARED[place]:
                with _busy(neighbours):
                    rate = _embed_rate(folder, model, manifest, pinned, SETTINGS[setting])
                rates.setdefault((place, setting), []).append(rate)
            if model != "tiny":
                with _busy(neighbours):
                    rate = _peer_rate(folder, pinned)
                rates.setdefault((place, "open_clip's loop"), []).append(rate)
        print(f"{Path(model).name}: a round is done", file=sys.stderr, flush=True)
    return rates


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keeps so many cores busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _embed_rate(
    folder: Path, model: str, manifest: Path, pinned: Sequence[str], environment: dict[str, str]
) -> float:
    output = folder / "out"
    argv = ["--manifest", manifest, "--output", output, "--model", model, "--overwrite"]
    command = [*pinned, sys.executable, "-m", "pipelines.embed", *map(str, argv)]
    run = subprocess.run(command, env=_environment(environment), capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    record = json.loads((output / "run.json").read_text())
    seconds = record["seconds"]["wall"] - record["seconds"]["start"]
    return float(record["counts"]["rows_read"] / seconds)


def _peer_rate(folder: Path, pinned: Sequence[str]) -> float:
    command = [*pinned, sys.executable, "-m", "bench.neighbours", "--peer", str(folder)]
    run = subprocess.run(command, env=_environment(PLAIN), capture_output=True, text=True)
    return float(run.stdout) if run.returncode == 0 else float("nan")


def _environment(changes: dict[str, str]) -> dict[str, str]:
    """Returns this process's environment as a user has it, with changes.

    Importing `clip_core` has set its bounds in this process, which would look like a user's.
    """
    kept = {name: value for name, value in os.environ.items() if name not in DECIDED_BY}
    return kept | changes


def _open_clip_rate(folder: Path) -> float:
    """Runs in a process of its own; returns pairs a second."""
    tars = folder / "tars"
    pairs = make_pairs(64)
    try:
        loop = open_clip(Work(folder / "ViT-B-32", pairs, tars, 64))
    except PeerMissing as missing:
        raise SystemExit(str(missing)) from missing
    began = time.perf_counter()
    loop()
    return len(pairs) / (time.perf_counter() - began)


def _print_table(model: str, rates: dict[tuple[str, str], list[float]]) -> None:
    settings = list(dict.fromkeys(setting for _, setting in rates))
    print(f"\n{Path(model).name}, rows/s (median, least, most)")
    print(f"{'':<18}" + "".join(f"{place:>24}" for place in PLACES))
    for setting in settings:
        cells = [_cell(rates.get((place, setting))) for place in PLACES]
        print(f"{setting:<18}" + "".join(f"{cell:>24}" for cell in cells))
    middle = {key: statistics.median(values) for key, values in rates.items()}
    own = {place: middle[place, "as it is"] for place in PLACES}
    best = max(middle["alone", setting] for setting in SETTINGS)
    print(f"beside one / alone {own['beside one'] / own['alone']:.2f}")
    one_thread = own["on one core"] / middle["on one core", "one thread"]
    print(f"on one core / one thread {one_thread:.2f}")
    print(f"alone / best setting {own['alone'] / best:.2f}")


def _cell(rates: list[float] | None) -> str:
    if rates is None:
        return ""
    return f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


if __name__ == "__main__":
    main()
