"""Peak memory over images of 20 MB, from a store and from the disk: `bench.store --peaks`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bench.stand_in_process import StandInProcess

DISTINCT, SIDE = 8, 2582  # of 3 bytes a pixel, kept as they are: 20 MB


def write_huge(folder: Path, rows: int) -> None:
    """Writes a few images of 20 MB, and a JSONL that names each many times."""
    folder.mkdir(parents=True)
    for number in range(DISTINCT):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        body = io.BytesIO()
        Image.fromarray(pixels).save(body, "BMP")
        (folder / f"{number}.bmp").write_bytes(body.getvalue())
    lines = [{"uid": f"{n:06d}", "url": f"{n % DISTINCT}.bmp", "text": "a"} for n in range(rows)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text)


def print_peaks(root: Path, store: StandInProcess, latency: float) -> None:
    """Embeds from and to the disk, and from and to the store; prints the peak of each."""
    disk = _peak_mb(f"{root}/bucket", f"{root}/out")
    store.set(latency=latency)
    there = _peak_mb("s3://bucket", "s3://bucket/out")
    most = store.stats()["most_in_flight"]
    print(f"disk {disk:.0f} MB, store {there:.0f} MB with {most} in flight at most, "
          f"{there - disk:.0f} MB more")  # fmt: skip


def _peak_mb(folder: str, output: str) -> float:
    """Embeds a folder's manifest in a process of its own; returns the most memory it has had."""
    argv = [sys.executable, "-m", "pipelines.embed", "--model", "tiny", "--scores_only"]
    argv += ["--manifest", f"{folder}/data/manifest.jsonl", "--output", output]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(argv)} failed; run it by hand")
    return used.ru_maxrss / 1024
