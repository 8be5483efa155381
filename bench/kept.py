"""How `filter` and `heads` grow with the rows of a run: `python -m bench.kept`.

Every measurement is a process of its own over generated embeddings. Time is of the processor, so
that others on the machine matter little; memory is the peak above what the imports took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from pipelines.output.layout import FINGERPRINT_KEY
from pipelines.output.parquet import write_parquet
from schemas.embeddings import embeddings_schema

SIZES = (200_000, 800_000)
DIM = 512
UNIT_ROWS = 10_000
MEASURED = r"""
import re, sys, time
from pipelines import cli
import pipelines.filter, pipelines.heads
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
before, began = peak(), time.process_time()
status = cli.main(sys.argv[1:])
took = time.process_time() - began
print(status, took, peak() - before, int("apache_beam" in sys.modules), file=sys.stderr)
"""
COMMANDS = {
    "filter --top_fraction 0.3": ["filter", "--top_fraction", "0.3"],
    "the same --within source": ["filter", "--top_fraction", "0.3", "--within", "source"],
    "heads, two": [
        "heads",
        "--head",
        "a=A",
        "--head",
        "b=B",
        "--head_activation",
        "b=relu,sigmoid",
    ],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options = flags.parse_args(argv)
    print(f"{'rows':>8}  {'command':<28}{'CPU s':>8}{'MB above the start':>20}{'Beam':>6}")
    with tempfile.TemporaryDirectory() as folder:
        heads = _write_heads(Path(folder))
        for rows in options.sizes:
            run = _write_run(Path(folder) / "run", rows)
            for name, command in COMMANDS.items():
                command = [heads.get(word, word) for word in command]
                took, memory, beam = _measured(run, command)
                loaded = "yes" if beam else "no"
                print(f"{rows:>8}  {name:<28}{took:>8.1f}{memory:>20.0f}{loaded:>6}", flush=True)


def _write_heads(folder: Path) -> dict[str, str]:
    random = np.random.default_rng(1)
    linear, mlp = folder / "linear.safetensors", folder / "mlp.safetensors"
    save_file(_layer("", random, 1, DIM), linear)
    save_file(_layer("0.", random, 64, DIM) | _layer("1.", random, 1, 64), mlp)
    return {"a=A": f"a={linear}", "b=B": f"b={mlp}"}


def _layer(prefix: str, random: np.random.Generator, outputs: int, inputs: int) -> dict:
    weight = random.normal(size=(outputs, inputs)).astype(np.float32)
    return {f"{prefix}weight": weight, f"{prefix}bias": np.zeros(outputs, np.float32)}


def _write_run(root: Path, rows: int) -> Path:
    """Writes what `embed` would, a file for each unit, in the place of another run."""
    schema = embeddings_schema(DIM).with_metadata({FINGERPRINT_KEY: "{}"})
    random = np.random.default_rng(0)
    for unit, first in enumerate(range(0, rows, UNIT_ROWS)):
        batch = _rows(random, schema, first, min(UNIT_ROWS, rows - first))
        write_parquet(str(root / "embeddings" / f"unit-{unit:05}.parquet"), schema, [batch])
    counts = {"rows_read": rows, "embedded": rows, "rejected": 0}
    (root / "run.json").write_text(json.dumps({"counts": counts}), encoding="utf-8")
    (root / "_SUCCESS").touch()
    return root


def _rows(random: np.random.Generator, schema: pa.Schema, first: int, rows: int) -> pa.RecordBatch:
    vectors = random.normal(size=(2, rows, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    image, text = (
        pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), DIM) for part in vectors
    )
    numbers = range(first, first + rows)
    columns = {
        "uid": pa.array([f"{n:032x}" for n in numbers]),
        "source": pa.array([f"/data/{n // UNIT_ROWS % 7}.parquet" for n in numbers]),
        "source_row": pa.array(numbers, pa.int64()),
        "caption_index": pa.array(np.zeros(rows, np.int64)),
        "url": pa.array([f"https://host/{n}.jpg" for n in numbers]),
        "text": pa.array([f"a caption of the image number {n}" for n in numbers]),
        "original_width": pa.array(np.full(rows, 256)),
        "original_height": pa.array(np.full(rows, 256)),
        "sha256": pa.array([f"{n:064x}" for n in numbers]),
        "similarity": pa.array(random.normal(0.25, 0.05, rows).astype(np.float32)),
        "text_truncated": pa.array(np.zeros(rows, bool)),
        "image_embedding": image.cast(schema.field("image_embedding").type),
        "text_embedding": text.cast(schema.field("text_embedding").type),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _measured(run: Path, command: Sequence[str]) -> tuple[float, float, bool]:
    """Returns processor seconds, megabytes above the start, and whether Beam was loaded."""
    flags = ["--input", str(run), "--output", str(run.parent / "out"), "--overwrite"]
    argv = [sys.executable, "-c", MEASURED, *command, *flags]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    status, took, memory, beam = done.stderr.splitlines()[-1].split()
    if status != "0":
        raise SystemExit(done.stderr)
    return float(took), float(memory), beam == "1"


if __name__ == "__main__":
    main()
