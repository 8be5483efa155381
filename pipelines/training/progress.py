"""Shows how a pretraining goes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from clip_core.training.trainer import StepReport

LOG_EVERY_STEPS = 50


class TrainingProgress:
    """Shows loss, in-batch accuracy and rate: a bar on a terminal, plain lines elsewhere.

    Args:
        silent: show nothing, as all processes but the first do.
    """

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent
        self._bar: tqdm | None = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, report: StepReport) -> None:
        if self._silent:
            return
        if self._bar is None:
            self._bar = tqdm(
                total=report.steps * report.rows,
                initial=(report.step - 1) * report.rows,
                unit=" pairs",
                desc="train",
                disable=None,
            )
        self._bar.update(report.rows)
        line = (
            f"loss {report.loss:.3f}, accuracy {report.accuracy:.3f}, "
            f"logit scale {report.logit_scale:.1f}"
        )
        if not self._bar.disable:
            self._bar.set_postfix_str(line, refresh=False)
        elif report.step % LOG_EVERY_STEPS == 0 or report.step == report.steps:
            print(f"step {report.step} of {report.steps}: {line}", file=sys.stderr, flush=True)


def print_summary(output: Path, scores: dict[str, float]) -> None:
    """Prints what came of it."""
    for name, value in scores.items():
        print(f"{name}: {value:.3f}")
    print(f"model: {output}")
