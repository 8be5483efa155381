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
from clip_core.variants import VARIANTS
from pipelines.command_line import exits
from pipelines.command_line.model_flags import add_checkpoint_flags, load_options
from pipelines.command_line.parser import Parser
from pipelines.command_line.places import local_place, manifest_place, place
from pipelines.engine.cores import threads_for, usable_cores
from pipelines.images.trust import add_replay_flags
from pipelines.output.overwriting import OutputExistsError
from pipelines.training import decoded_data
from pipelines.training.model_directories import first_foreign, holds_model
from pipelines.training.processes import device_of, rank, start_processes
from pipelines.training.progress import TrainingProgress, print_summary
from pipelines.training.run import CHECKPOINT, DEFAULT_VARIANT, TRAINING, DivergedError, pretrain

_NOT_NEGATIVE = ("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm")


def parser() -> argparse.ArgumentParser:
    """Builds the command line of `clip-beam pretrain`."""
    flags = Parser(prog="clip-beam pretrain", description=__doc__.splitlines()[0])
    defaults = PretrainConfig()
    add = flags.add_argument
    add(
        "--manifest",
        action="append",
        type=manifest_place,
        required=True,
        help="image-text manifest; repeatable",
    )
    add_replay_flags(flags)
    add("--output", required=True, type=local_place, help="model directory to write")
    add("--overwrite", action="store_true", help="train anew and replace the model in the output")
    add("--variant", choices=sorted(VARIANTS), help=f"architecture [{DEFAULT_VARIANT}]")
    add(
        "--init_from",
        type=place,
        metavar="MODEL",
        help="checkpoint to start from, instead of random weights",
    )
    add("--image_size", type=int, help="side in pixels, where not the architecture's own")
    add("--epochs", type=int, default=defaults.epochs)
    add("--batch_size", type=int, default=defaults.batch_size, help="over all processes")
    add(
        "--micro_batch_size",
        type=int,
        help="rows a process holds activations of at a time; the gradients stay the whole batch's",
    )
    add(
        "--activation_checkpointing",
        action="store_true",
        help="recompute activations inside blocks: a third more time, a fraction of the memory",
    )
    add("--learning_rate", type=float, default=defaults.learning_rate)
    add("--weight_decay", type=float, default=defaults.weight_decay)
    add("--warmup_steps", type=int, default=defaults.warmup_steps)
    add("--max_grad_norm", type=float, default=defaults.max_grad_norm)
    add("--precision", choices=("fp32", "bf16"), default=defaults.precision)
    add(
        "--horizontal_flip",
        action="store_true",
        help="mirror half of the pictures; only where no caption names a side",
    )
    add("--checkpoint_every", type=int, default=defaults.checkpoint_every, help="steps")
    add(
        "--holdout_fraction",
        type=float,
        default=0.02,
        help="rows kept out of training and scored by retrieval recall",
    )
    add("--save_precision", choices=("fp16", "fp32"), default="fp16", help="of the weights file")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, default=usable_cores(), help="that decode pictures")
    add("--seed", type=int, default=defaults.seed)
    add_checkpoint_flags(flags)
    return flags


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
