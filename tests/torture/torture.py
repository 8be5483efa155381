"""Throws seeded bad input and faults at the job and counts what comes back; `make torture`.

Prints a line for each part. Exit status 1 when a row is unaccounted for, anything but a named fault
is raised, or a bound is passed. A native crash ends the program, naming the part it was in.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

import torture_bombs
import torture_doors
import torture_faults
import torture_kills
from clip_core.preprocess import Preprocess
from pipelines import embed
from pipelines.images.decode import DecodeLimits, decode_image
from pipelines.records import RowFault
from torture_images import bad_images, bombs
from torture_manifests import bad_manifests, read_manifest, unaccounted

MAX_BOMB_S = 2.0
MAX_BOMB_MIB = 1024
MAX_IMAGE_S = 10.0
MAX_RUN_S = 120.0


@dataclass
class Tally:
    """What came of one part: inputs, outcomes by name, and what must stay zero."""

    part: str
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    unaccounted: int = 0
    crashes: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slow: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, crashed or took too long."""
        return not (self.unaccounted or self.crashes or self.slow)

    def note_time(self, name: str, began: float, bound_s: float, clock=time.perf_counter) -> None:
        """Notes how long an input took since `began`, by a clock."""
        seconds = clock() - began
        self.slowest_s = max(self.slowest_s, seconds)
        if seconds > bound_s:
            self.slow.append(f"{name}: {seconds:.1f} s")


def decode_all(part: str, images: Iterable[tuple[str, bytes]], size: int, bound_s: float) -> Tally:
    """Decodes pictures; each must give pixels or a named fault within `bound_s` seconds.

    These are of the processor, as a busy machine is not the fault of an image.
    """
    tally = Tally(part)
    preprocess, limits = Preprocess(size), DecodeLimits()
    for name, data in images:
        tally.inputs += 1
        began = time.process_time()
        try:
            pixels = decode_image(data, [preprocess], limits).pixels[0]
            assert pixels.shape == (3, size, size) and pixels.dtype == "uint8"
            tally.outcomes["decoded"] += 1
        except RowFault as fault:
            tally.outcomes[fault.reason.value] += 1
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            tally.crashes.append(f"{name}: {error!r}")
        tally.note_time(name, began, bound_s, time.process_time)
    return tally


def images_part(count: int, seed: int) -> Tally:
    """Damaged pictures of every format."""
    return decode_all("bad images", bad_images(count, seed), 32, MAX_IMAGE_S)


def bombs_part() -> Tally:
    """Small files that claim to be large ones, at the size of ViT-B."""
    images = bombs().items()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of what ran before
    before_mib = _peak_mib()
    tally = decode_all("bombs", images, 224, MAX_BOMB_S)
    peak_mib = _peak_mib()
    tally.outcomes["MiB of memory"] = round(peak_mib - before_mib)
    if tally.outcomes["MiB of memory"] > MAX_BOMB_MIB:
        tally.slow.append(f"{peak_mib - before_mib:.0f} MiB, more than {MAX_BOMB_MIB}")
    return tally


def _peak_mib() -> float:
    """Returns the most memory that this process has held since its peak was forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def manifests_part(count: int, seed: int, folder: Path) -> Tally:
    """Damaged manifests of every form, planned and read; no row may vanish without a reject."""
    tally = Tally("bad manifests")
    for number, (name, data, ids) in enumerate(bad_manifests(count, seed)):
        tally.inputs += 1
        (folder / name).write_bytes(data)
        began = time.perf_counter()
        try:
            found = read_manifest(folder / name)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            tally.crashes.append(f"{name} number {number}: {error!r}")
            continue
        tally.note_time(name, began, MAX_IMAGE_S)
        if found is None:
            tally.outcomes["refused"] += 1
            continue
        uids, rejects = found
        tally.unaccounted += unaccounted(ids, uids, rejects)
        tally.outcomes["with rejects" if rejects else "whole"] += 1
    return tally


def job_part(count: int, seed: int, folder: Path, model: str) -> Tally:
    """Damaged pictures in one manifest, through the whole job, Beam and all."""
    tally = Tally("bad images, job", inputs=count)
    names, images = zip(*bad_images(count, seed), strict=True)
    text = [f"a star {number}" for number in range(count)]
    table = pa.table({"uid": names, "image_bytes": images, "text": text})
    pq.write_table(table, folder / "job.parquet")
    flags = ["--manifest", str(folder / "job.parquet"), "--output", str(folder / "job")]
    with contextlib.redirect_stdout(io.StringIO()):
        status = embed.main([*flags, "--model", model])
    if status != 0:
        tally.crashes.append(f"the job ended with {status}")
        return tally
    tables = {
        name: ds.dataset(folder / "job" / name).to_table() for name in ("embeddings", "rejects")
    }
    found = Counter(uid for table in tables.values() for uid in table["uid"].to_pylist())
    tally.unaccounted = sum(found[name] != 1 for name in names)
    tally.outcomes["embedded"] = tables["embeddings"].num_rows
    tally.outcomes.update(tables["rejects"]["reason"].to_pylist())
    return tally


def faults_part(count: int, seed: int, model: str) -> Tally:
    """Runs under faults of the store and kills, until each gets through."""
    tally = Tally("fault runs")
    with torture_faults.faulty_store():
        expected = torture_faults.fault_free(model)
        for number in _shown(range(seed, seed + count), tally.part):
            tally.inputs += 1
            began = time.perf_counter()
            try:
                found = torture_faults.fault_run(number, model, expected)
            except Exception as error:  # noqa: BLE001 - it is what is looked for
                tally.crashes.append(f"seed {number}: {error!r}")
                continue
            tally.unaccounted += found.unaccounted + found.differing
            tally.outcomes.update(found.struck)
            tally.outcomes["attempts"] += found.attempts
            tally.note_time(f"seed {number}", began, MAX_RUN_S)
    return tally


def kills_part(count: int, seed: int, folder: Path, model: str) -> Tally:
    """Processes killed at seeded points on a real disk, and completed."""
    tally = Tally("kills")
    manifest = torture_kills.write_data(folder / "kills")
    torture_kills.complete(manifest, folder / "whole", model)
    expected = torture_kills.tables(folder / "whole")
    for number in _shown(range(seed, seed + count), tally.part):
        tally.inputs += 1
        began = time.perf_counter()
        output = folder / f"killed-{number}"
        try:
            killed = torture_kills.kill_run(number, manifest, output, model)
            tally.outcomes["killed" if killed else "finished before"] += 1
            tally.unaccounted += torture_kills.tables(output) != expected
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            tally.crashes.append(f"seed {number}: {error!r}")
        tally.note_time(f"seed {number}", began, 3 * MAX_RUN_S)
    return tally


def unfolding_part(folder: Path) -> Tally:
    """Manifests of some kB that would become gigabytes."""
    tally = Tally("unfolding bombs")
    worst = 0
    for name, path, kept in torture_bombs.bombs(folder):
        tally.inputs += 1
        began = time.perf_counter()
        try:
            peak = torture_bombs.peak_mib(path, kept)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            tally.crashes.append(f"{name}: {error!r}")
            continue
        worst = max(worst, peak)
        if peak > torture_bombs.MAX_PEAK_MIB:
            tally.slow.append(f"{name}: {peak} MiB, more than {torture_bombs.MAX_PEAK_MIB}")
        tally.note_time(name, began, MAX_RUN_S)
    tally.outcomes["MiB of memory"] = worst
    return tally


def doors_part(
    part: str, work: Callable[[int, Path, str], tuple[str, int]], numbers: range, *about: Any
) -> Tally:
    """Runs over manifests that change, or over tables of strangers; counts what is amiss."""
    tally = Tally(part)
    for number in _shown(numbers, part):
        tally.inputs += 1
        began = time.perf_counter()
        try:
            kind, amiss = work(number, *about)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            tally.crashes.append(f"seed {number}: {error!r}")
            continue
        tally.outcomes[kind] += 1
        tally.unaccounted += amiss
        tally.note_time(f"seed {number}", began, MAX_RUN_S)
    return tally


def _shown(numbers: range, part: str) -> Iterable[int]:
    return tqdm(numbers, desc=part, unit=" runs", disable=None, leave=False)


def show(tally: Tally) -> None:
    """Prints the line of a part, and what was wrong in it."""
    outcomes = ", ".join(f"{name} {count}" for name, count in tally.outcomes.most_common())
    print(
        f"{tally.part:<16}{tally.inputs:>7}{tally.unaccounted:>13}{len(tally.crashes):>9}"
        f"{tally.slowest_s:>11.2f}  {outcomes}",
        flush=True,
    )
    for line in [*tally.crashes[:10], *tally.slow[:10]]:
        print(f"    {line}")


def main() -> int:
    """Runs all parts."""
    parser = argparse.ArgumentParser(description="Throw bad input and faults at the job.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--manifests", type=int, default=4_000)
    parser.add_argument("--job_images", type=int, default=5_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--doors", type=int, default=60, help="runs of either kind")
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)  # batches are tiny
    warnings.simplefilter("ignore")  # Pillow's, one for each kind of damage
    print(f"{'part':<16}{'inputs':>7}{'unaccounted':>13}{'crashes':>9}{'slowest s':>11}  outcomes")
    failed = 0
    seed, model = options.seed, options.model
    doors = range(seed, seed + options.doors)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part in (
            bombs_part,
            lambda: images_part(options.images, seed),
            lambda: manifests_part(options.manifests, seed, folder),
            lambda: job_part(options.job_images, seed, folder, model),
            lambda: faults_part(options.runs, seed, model),
            lambda: kills_part(options.kills, seed, folder, model),
            lambda: unfolding_part(folder),
            lambda: doors_part("changed", torture_doors.changed_run, doors, folder, model),
            lambda: doors_part("hostile tables", torture_doors.hostile_run, doors, folder, model),
        ):
            tally = part()
            show(tally)
            failed += not tally.ok
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
