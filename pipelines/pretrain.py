"""`clip-beam pretrain`: contrastive pretraining of a CLIP from a manifest.

Run by itself it uses one process; under `torchrun --nproc_per_node N -m pipelines.pretrain ...` it
spreads each batch over N processes. OUTPUT becomes a model directory; OUTPUT/training holds the
decoded data and the checkpoint that an interrupted run resumes from.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from clip_core.loading import ClipModel, load
from clip_core.training.recipe import PretrainConfig, PretrainError
from pipelines.command_line import exits
from pipelines.command_line.model_flags import load_options
from pipelines.engine.cores import threads_for
from pipelines.output.overwriting import OutputExistsError
from pipelines.training import decoded_data
from pipelines.training.flags import parser
from pipelines.training.model_directories import first_foreign, holds_model
from pipelines.training.processes import device_of, rank, start_processes
from pipelines.training.progress import TrainingProgress, print_summary
from pipelines.training.run import CHECKPOINT, DEFAULT_VARIANT, TRAINING, DivergedError, pretrain

_NOT_NEGATIVE = ("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm")


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    try:
        checkpoint = _starting_checkpoint(options)
        config = _pretrain_config(options, checkpoint)
        _check_place(options)
    except (ValueError, OSError) as error:
        return exits.fail("pretrain", str(error), exits.WRONG_USAGE)
    threads = threads_for(training=True).torch
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        start_processes(options.device)
        with TrainingProgress(silent=rank() > 0) as progress:
            scores = pretrain(options, config, checkpoint, progress)
    except ValueError as error:
        return exits.fail("pretrain", str(error), exits.WRONG_USAGE)
    except (OSError, DivergedError) as error:
        return exits.fail("pretrain", str(error), exits.FAILED)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if scores is not None:
        print_summary(options.output, scores)
    return 0


def _pretrain_config(options: argparse.Namespace, checkpoint: ClipModel | None) -> PretrainConfig:
    """Returns the hyperparameters, the flags checked.

    Raises:
        PretrainError: names the flag that is out of its range.
    """
    for name in _NOT_NEGATIVE:
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            raise PretrainError(f"`--{name}` must be 0 or more, got {value}")
    if options.threads < 1:
        raise PretrainError(f"`--threads` must be a positive int, got {options.threads}")
    if not 0 <= options.holdout_fraction < 1:
        raise PretrainError(
            f"`--holdout_fraction` must be from 0 to below 1, got {options.holdout_fraction}"
        )
    # With the architecture, so that a run of another one is not resumed.
    start = f"random {options.variant or DEFAULT_VARIANT}"
    if checkpoint is not None:
        start = checkpoint.fingerprint["checkpoint_sha256"]
    names = set(PretrainConfig.__dataclass_fields__) - {"start"}
    return PretrainConfig(start=start, **{name: getattr(options, name) for name in names})


def _check_place(options: argparse.Namespace) -> None:
    """Makes sure of the device and the output before the long work.

    Raises:
        PretrainError, OSError: what is wrong with them.
    """
    try:
        torch.empty(1, device=device_of(options.device))
    except (RuntimeError, AssertionError) as error:  # what torch raises where there is none
        reason = str(error).split("\n", 1)[0]
        raise PretrainError(f"device {options.device} cannot be used: {reason}") from error
    if options.output.exists() and not options.output.is_dir():
        raise PretrainError(f"expected `--output` to be a directory, got the file {options.output}")
    _check_room(options.output, options.overwrite)
    options.output.mkdir(parents=True, exist_ok=True)


def _check_room(output: Path, overwrite: bool) -> None:
    """Makes sure that no model is replaced unasked, nor a file of others at all.

    A pretraining that finds its own checkpoint goes on, and the model is the one it made.

    Raises:
        OutputExistsError: says what is there.
    """
    if not holds_model(output) or (not overwrite and (output / TRAINING / CHECKPOINT).exists()):
        return
    foreign = first_foreign(output, decoded_data.is_own_file)
    if foreign is not None:
        raise OutputExistsError(
            f"{output} holds a model and {foreign}, which is of no model of this program; name "
            "another output, or remove it yourself"
        )
    if not overwrite:
        raise OutputExistsError(
            f"{output} holds a model already; pass `--overwrite` or name another output"
        )


def _starting_checkpoint(options: argparse.Namespace) -> ClipModel | None:
    """Loads the model of `--init_from`, where there is one."""
    if options.init_from is None:
        return None
    if options.variant is not None:
        raise PretrainError(
            "expected `--variant` or `--init_from`, got both; a checkpoint has its architecture"
        )
    return load(options.init_from, **load_options(options).arguments())


if __name__ == "__main__":
    exits.run(main)
