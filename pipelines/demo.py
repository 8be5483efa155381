"""`clip-beam demo`: sample data in, scores and a report out, and how well they tell true pairs from
swapped.

OUTPUT/sample      pictures and captions, some swapped, some broken, and the truth about them
OUTPUT/embedded    what `clip-beam embed` makes of them
OUTPUT/report.html what `clip-beam report` makes of that
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from clip_core.ranking import auroc
from pipelines import embed, report
from pipelines.arguments import WRONG_USAGE, Parser
from pipelines.extras import MissingExtraError
from pipelines.sample import TRUTH, write_sample
from pipelines.sample_rows import SampleConfig

MARKER = ".clip-beam-demo"  # a directory that holds it was made here and may be made anew
SWAP_RATE = 0.15
BROKEN_RATE = 0.03


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    try:
        sample = _make_sample(options.output, options.rows, options.seed)
    except (ValueError, OSError) as error:
        print(f"clip-beam demo: {error}", file=sys.stderr)
        return WRONG_USAGE
    embedded = options.output / "embedded"
    print(f"$ clip-beam embed --manifest {sample} --output {embedded} --model tiny", flush=True)
    status = embed.main(["--manifest", str(sample), "--output", str(embedded), "--model", "tiny"])
    if status == 0:
        print(f"\n{results_table(sample, embedded)}\n")
        status = _report(embedded, options.output / "report.html")
    return status


def parser() -> argparse.ArgumentParser:
    """Builds the command line of `clip-beam demo`."""
    flags = Parser(
        prog="clip-beam demo",
        description="Embed a sample dataset, report on it and show the result.",
    )
    flags.add_argument("--output", type=Path, default=Path("demo-output"), help="[demo-output]")
    flags.add_argument("--rows", type=int, default=1000, help="[1000]")
    flags.add_argument("--seed", type=int, default=0, help="[0]")
    return flags


def results_table(sample: Path, embedded: Path) -> str:
    """Compares the scores with the truth: a line for each kind of row."""
    truth = {row["uid"]: row for row in map(json.loads, (sample / TRUTH).open(encoding="utf-8"))}
    table = ds.dataset(embedded / "embeddings").to_table(columns=["uid", "similarity"])
    swaps = [truth[uid]["swap"] for uid in table["uid"].to_pylist()]
    similarity = table["similarity"].to_numpy()
    is_true = np.array([swap == "none" for swap in swaps])
    lines = [
        f"{'caption':<12}{'rows':>6}{'mean similarity':>18}",
        _line("true", similarity[is_true]),
        _line("swapped", similarity[~is_true]),
    ]
    score = auroc(similarity[is_true], similarity[~is_true])
    broken = sum(row["damage"] != "none" for row in truth.values())
    lines.append("")
    lines.append(f"a true pair scores above a swapped one in {score:.1%} of cases (AUROC)")
    lines.append(f"broken pictures: {broken} drawn, {len(truth) - len(similarity)} rejected")
    return "\n".join(lines)


def _report(embedded: Path, page: Path) -> int:
    """Writes the page about the run, where the extra that draws it is installed."""
    try:
        report.require_extra()
    except MissingExtraError as error:
        print(f"no report: {error}")
        return 0
    print(f"$ clip-beam report --input {embedded} --output {page}", flush=True)
    status = report.main(["--input", str(embedded), "--output", str(page)])
    if status == 0:
        print(f"\nopen {page} in a browser")
    return status


def _line(name: str, similarity: np.ndarray) -> str:
    return f"{name:<12}{len(similarity):>6}{similarity.mean():>18.3f}"


def _make_sample(output: Path, rows: int, seed: int) -> Path:
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise ValueError(f"expected an empty or new directory, got {output}; name another")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()
    config = SampleConfig(rows, seed, swap_rate=SWAP_RATE, broken_rate=BROKEN_RATE)
    write_sample(config, output / "sample", "parquet")
    return output / "sample"


if __name__ == "__main__":
    sys.exit(main())
