"""Kills runs of `embed`, as processes on a real disk, at seeded points, and completes them."""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds

from pipelines import embed
from torture_images import bad_images

ROOT = Path(__file__).parents[2]
ROWS = 24
# Everything a unit goes through on its way to the disk; SIGKILL strikes before the n-th of these.
KILLED = """
import os, signal, sys
sys.path[:0] = ["tests/support", "."]
import torch
torch.set_num_threads(1)
from pipelines import embed
from pipelines.encoding import handler
from pipelines.output import unit_writer
from pipelines.runs import starting
from pipelines.storage import partial_files, reading, writing
left = int(sys.argv[1])
def struck(owner, name):
    original = getattr(owner, name)
    def wrapped(*arguments, **settings):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **settings)
    setattr(owner, name, wrapped)
for owner, name in ((os, "replace"), (os, "fsync"), (writing, "remove"), (handler, "encode_rows"),
                    (reading, "read_whole"), (starting, "remove_partials"),
                    (partial_files.PartialFile, "publish"), (unit_writer._TableFile, "write_group")):
    struck(owner, name)
sys.exit(embed.main(sys.argv[2:]))
"""
POINTS = 60  # operations of a whole run, about; a later point lets it finish


def write_data(folder: Path) -> Path:
    """Writes a manifest of whole and damaged pictures; returns it."""
    folder.mkdir(parents=True)
    lines = ["uid,url,text"]
    for number, (_, data) in enumerate(bad_images(ROWS * 3, 5)):
        if number % 3 == 0:
            (folder / f"{number}.img").write_bytes(data)
            lines.append(f"u{number},{number}.img,a star {number}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def flags(manifest: Path, output: Path, model: str) -> list[str]:
    """Returns the command line of a run in units of four rows."""
    named = {"manifest": manifest, "output": output, "model": model, "rows_per_unit": 4}
    return [part for name, value in named.items() for part in (f"--{name}", str(value))]


def kill_run(seed: int, manifest: Path, output: Path, model: str) -> bool:
    """Kills a run at a point, perhaps its successor, too; then completes it.

    Returns:
        Whether the first one was killed, and had not finished before.
    """
    rng = random.Random(seed)
    killed = False
    for attempt in range(rng.choice([1, 1, 2])):
        point = str(rng.randrange(1, POINTS))
        command = [sys.executable, "-c", KILLED, point, *flags(manifest, output, model)]
        status = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300).returncode
        assert status in (0, -9), f"ended with {status}"
        killed = killed or (attempt == 0 and status == -9)
        assert status == 0 or not (output / "_SUCCESS").exists(), "killed beside _SUCCESS"
    complete(manifest, output, model)
    return killed


def complete(manifest: Path, output: Path, model: str) -> None:
    """Runs `embed` in this process, to its end."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert embed.main(flags(manifest, output, model)) == 0


def tables(output: Path) -> tuple[list[dict], list[dict]]:
    """Returns the rows of both tables, in manifest order; vectors rounded to what must agree.

    Raises:
        AssertionError: if something is left in the output that is no part of it.
    """
    names = {path.name for path in output.rglob("*") if path.is_file()}
    left = {name for name in names if not name.endswith(".parquet")} - {
        "run.json",
        "_SUCCESS",
        "_attempts.json",
        "_plan.json",
    }
    assert not left, f"left behind: {left}"
    scores = ["uid", "source_row", "similarity", "sha256"]
    embedded = ds.dataset(output / "embeddings").to_table(columns=scores).sort_by("source_row")
    rejects = ds.dataset(output / "rejects").to_table().sort_by("source_row")
    rows = [{**row, "similarity": round(row["similarity"], 4)} for row in embedded.to_pylist()]
    return rows, rejects.to_pylist()
