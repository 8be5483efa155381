"""How time and memory of `embed` grow with the rows: `python -m bench.growth`.

Every size is a process of its own, over generated scenes. With the bundled model, what is measured
is the pipeline and hardly the encoder. Rounds are interleaved; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.pairs import random_model
from clip_core.variants import VARIANTS
from pipelines.sample import write_sample
from pipelines.samples.rows import SampleConfig

SIZES = (1_000, 2_000, 4_000, 8_000, 16_000)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints a table, and writes the figures as JSON."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--model", default="tiny", help="for `embed`; of a variant, random weights")
    flags.add_argument("--json", type=Path, default=Path("growth.json"))
    options = flags.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        write_sample(SampleConfig(max(options.sizes), 5), Path(folder) / "rows", "jsonl")
        model = options.model
        if model in VARIANTS:
            model = random_model(Path(folder) / "model", model)
        found = measure(Path(folder), str(model), options.sizes, options.rounds)
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _print_table(found)


def measure(folder: Path, model: str, sizes: Sequence[int], rounds: int) -> list[dict[str, float]]:
    """Returns for each size: milliseconds a row, megabytes at the peak, and stages' shares."""
    manifests = {size: _first_rows(folder / "rows", size) for size in sizes}
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, manifest in manifests.items():
            runs[size].append(_run(manifest, model, folder / "out", size))
            print(f"{size}: {runs[size][-1]['ms_per_row']:.3f} ms a row", file=sys.stderr)
    return [
        {key: statistics.median(run[key] for run in found) for key in found[0]}
        for found in runs.values()
    ]


def _first_rows(sample: Path, size: int) -> Path:
    """Writes a manifest of the first rows of the sample."""
    manifests = sorted(sample.glob("manifest-*.jsonl"))
    lines = "".join(path.read_text(encoding="utf-8") for path in manifests).splitlines()
    target = sample / f"first-{size}.jsonl"
    target.write_text("\n".join(lines[:size]) + "\n", encoding="utf-8")
    return target


def _run(manifest: Path, model: str, output: Path, size: int) -> dict[str, float]:
    flags = ["--manifest", str(manifest), "--output", str(output), "--model", model, "--overwrite"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.embed", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("the pipeline failed; run it by hand")
    seconds = json.loads((output / "run.json").read_text())["seconds"]
    work = seconds["wall"] - seconds["start"]
    return {
        "rows": size,
        "ms_per_row": 1e3 * work / size,
        "peak_mb": usage.ru_maxrss / 1024,
        **{f"{name}_share": seconds[name] / work for name in SHARES},
    }


# Of the wall; two bundles at once may together pass it.
SHARES = ("read", "wait", "encode", "write")


def _print_table(found: Sequence[dict[str, float]]) -> None:
    print(f"{'rows':>7}{'ms/row':>9}{'peak MB':>9}" + "".join(f"{n:>9}" for n in SHARES))
    for run in found:
        shares = "".join(f"{run[f'{name}_share']:>9.0%}" for name in SHARES)
        print(f"{run['rows']:>7.0f}{run['ms_per_row']:>9.3f}{run['peak_mb']:>9.0f}{shares}")


if __name__ == "__main__":
    main()
