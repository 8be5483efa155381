"""`clip-beam demo`: sample data in, all that is made of it out, and how well that meets the truth.

OUTPUT/sample      images and captions, some swapped, some broken, and the truth about them
OUTPUT/embedded    what `clip-beam embed` makes of them
OUTPUT/filtered    what `clip-beam filter` keeps of that
OUTPUT/labels      what `clip-beam classify` sees in it
OUTPUT/report.html what `clip-beam report` tells of it
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from pipelines import classify, embed, filter, report
from pipelines.command_line import exits
from pipelines.command_line.optional_packages import MissingExtraError
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import local_place
from pipelines.curation.kept_rows import OUTPUTS
from pipelines.images.trust import MANIFESTS
from pipelines.output import layout
from pipelines.output.overwriting import check_room
from pipelines.sample import TRUTH, write_sample
from pipelines.samples.ranking import auroc
from pipelines.samples.rows import SampleConfig
from pipelines.samples.scenes import BACKGROUNDS

MARKER = ".clip-beam-demo"  # a directory that holds it was made here and may be made anew
# What the commands write, by the directory in the output that each of them gets.
MADE = {
    "embedded": layout.OUTPUTS,
    "filtered": OUTPUTS,
    "labels": (classify.LABELS, classify.ACCURACY),
}
SWAP_RATE = 0.15
BROKEN_RATE = 0.03
KEPT_FRACTION = 0.8
LEAST_ROWS = 10  # so that there is something to filter and to label


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    tempfile.gettempdir()  # Beam will ask for one: said before the work if there is none
    try:
        if options.rows < LEAST_ROWS:
            raise ValueError(f"expected `--rows` of {LEAST_ROWS} or more, got {options.rows}")
        sample = _make_sample(options.output, options.rows, options.seed)
    except (ValueError, OSError) as error:
        return exits.fail("demo", str(error), exits.WRONG_USAGE)
    return _show(sample, options.output)


def parser() -> argparse.ArgumentParser:
    """Builds the command line of `clip-beam demo`."""
    flags = Parser(
        prog="clip-beam demo",
        description="Embed, filter and classify a sample dataset and report on it.",
    )
    add = group(flags, "input").add_argument
    add("--rows", type=int, default=1000, metavar="N", help="rows to draw [1000]")
    add("--seed", type=int, default=0, metavar="N", help="decides what is drawn [0]")
    add = group(flags, "output").add_argument
    add(
        "--output",
        type=local_place,
        default=Path("demo-output"),
        metavar="DIR",
        help="directory to write [demo-output]",
    )
    return flags


def results_table(sample: Path, embedded: Path) -> str:
    """Compares the scores with the truth: a line for each kind of row."""
    truth = _truth(sample)
    table = ds.dataset(embedded / "embeddings").to_table(columns=["uid", "similarity"])
    swaps = [truth[uid]["swap"] for uid in table["uid"].to_pylist()]
    similarity = table["similarity"].to_numpy()
    is_true = np.array([swap == "none" for swap in swaps])
    lines = [
        f"{'caption':<12}{'rows':>6}{'mean similarity':>18}",
        _line("true", similarity[is_true]),
        _line("swapped", similarity[~is_true]),
    ]
    broken = sum(row["damage"] != "none" for row in truth.values())
    lines.append("")
    if 0 < is_true.sum() < len(is_true):
        score = auroc(similarity[is_true], similarity[~is_true])
        lines.append(f"a true pair scores above a swapped one in {score:.1%} of cases (AUROC)")
    lines.append(f"broken images: {broken} drawn, {len(truth) - len(similarity)} rejected")
    return "\n".join(lines)


def swaps_kept(sample: Path, filtered: Path) -> str:
    """Says how many of the swapped captions a filter has left."""
    kept = ds.dataset(filtered / "embeddings").to_table(columns=["uid"])["uid"].to_pylist()
    swapped = [uid for uid, row in _truth(sample).items() if row["swap"] != "none"]
    left = len(set(kept) & set(swapped))
    return f"swapped captions: {len(swapped)} drawn, {left} of them among the {len(kept)} kept"


def _show(sample: Path, output: Path) -> int:
    """Runs the commands one after the other, as they would be typed; returns the exit status."""
    embedded, filtered = output / "embedded", output / "filtered"
    status = _run(embed, "--manifest", sample, "--output", embedded, "--model", "tiny")
    if status:
        return status
    print(f"\n{results_table(sample, embedded)}\n")
    kept = ("--top_fraction", KEPT_FRACTION)
    status = _run(filter, "--input", embedded, *kept, "--output", filtered)
    if status:
        return status
    print(f"\n{swaps_kept(sample, filtered)}\n")
    truth = ("--truth", sample / TRUTH, "--truth_column", "background")
    labels = ("--labels", ",".join(sorted(BACKGROUNDS)), "--output", output / "labels")
    status = _run(classify, "--input", embedded, *labels, *truth)
    pictures = (f"--{MANIFESTS}", sample)  # which lies outside the run's directory
    return status or _report(embedded, output / "report.html", *kept, *pictures)


def _run(command: ModuleType, *flags: object) -> int:
    """Shows a command and runs it."""
    argv = [str(flag) for flag in flags]
    name = command.__name__.rpartition(".")[2]
    print(f"$ {shlex.join(['clip-beam', name, *argv])}", flush=True)
    status: int = command.main(argv)
    return status


def _report(embedded: Path, page: Path, *flags: object) -> int:
    """Writes the page about the run, where the extra that draws it is installed."""
    try:
        report.require_extra()
    except MissingExtraError as error:
        print(f"\nno report: {error}")
        return 0
    print()
    status = _run(report, "--input", embedded, "--output", page, *flags)
    if status == 0:
        print(f"\nopen {page} in a browser")
    return status


def _truth(sample: Path) -> dict[str, dict[str, Any]]:
    with (sample / TRUTH).open(encoding="utf-8") as lines:
        return {row["uid"]: row for row in map(json.loads, lines)}


def _line(name: str, similarity: np.ndarray) -> str:
    mean = f"{similarity.mean():.3f}" if len(similarity) else "-"
    return f"{name:<12}{len(similarity):>6}{mean:>18}"


def _make_sample(output: Path, rows: int, seed: int) -> Path:
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise ValueError(f"expected an empty or new directory, got {output}; name another")
        _check_own(Path(os.path.abspath(output)))
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()
    config = SampleConfig(rows, seed, swap_rate=SWAP_RATE, broken_rate=BROKEN_RATE)
    write_sample(config, output / "sample", "parquet")
    return output / "sample"


def _check_own(output: Path) -> None:
    """Makes sure that a directory holds nothing but what an earlier demo wrote.

    Raises:
        ValueError: names the first file that is somebody's.
    """
    sample = output / "sample"
    own = {output / MARKER, output / "report.html", sample / TRUTH}
    own.update(sample.glob("manifest-*.parquet"))
    for folder, names in MADE.items():
        own.update(map(Path, check_room(str(output / folder), names, overwrite=True)))
    for path in sorted(output.rglob("*")):
        if path not in own and (path.is_symlink() or not path.is_dir()):
            raise ValueError(
                f"{path} is there, which the demo did not write and does not remove; name another "
                "directory, or remove it yourself"
            )


if __name__ == "__main__":
    exits.run(main)
