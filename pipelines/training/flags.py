"""The command line of `clip-beam pretrain`."""

from __future__ import annotations

import torch

from clip_core.training.recipe import PretrainConfig
from clip_core.variants import VARIANTS
from pipelines.command_line.model_flags import add_checkpoint_flags
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import local_place, manifest_place, place
from pipelines.engine.cores import usable_cores
from pipelines.images.trust import add_replay_flags
from pipelines.training.run import DEFAULT_VARIANT


def parser() -> Parser:
    """Builds the command line of `clip-beam pretrain`."""
    flags = Parser(prog="clip-beam pretrain", description="Pretrain a CLIP from a manifest.")
    _add_input_flags(flags)
    _add_model_flags(flags)
    _add_training_flags(flags)
    _add_output_flags(flags)
    _add_running_flags(flags)
    return flags


def _add_input_flags(flags: Parser) -> None:
    input_flags = group(flags, "input")
    add = input_flags.add_argument
    add(
        "--manifest",
        action="append",
        type=manifest_place,
        required=True,
        metavar="URI",
        help="image-text manifest; repeatable",
    )
    add_replay_flags(input_flags)
    add(
        "--holdout_fraction",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="share of rows that is kept out of training and scored by retrieval recall [0.02]",
    )


def _add_model_flags(flags: Parser) -> None:
    add = group(flags, "model").add_argument
    add(
        "--variant",
        choices=sorted(VARIANTS),
        metavar="NAME",
        help=f"architecture, such as ViT-B/32 [{DEFAULT_VARIANT}]",
    )
    add(
        "--init_from",
        type=place,
        metavar="URI",
        help="checkpoint to start from, instead of random weights",
    )
    add(
        "--image_size",
        type=int,
        metavar="PIXELS",
        help="side of the images [the architecture's own]",
    )
    add_checkpoint_flags(flags)


def _add_training_flags(flags: Parser) -> None:
    add = group(flags, "training").add_argument
    for flag, kind, value, what in (
        ("epochs", int, "N", "passes over the rows"),
        ("batch_size", int, "N", "rows in a step, over all processes"),
        ("learning_rate", float, "RATE", "AdamW's rate after the warmup"),
        ("weight_decay", float, "RATE", "AdamW's decay of matrices"),
        ("warmup_steps", int, "N", "steps in which the learning rate rises"),
        ("max_grad_norm", float, "NORM", "norm that gradients are clipped to"),
        ("seed", int, "N", "decides first weights, order and mirroring"),
    ):
        default = getattr(PretrainConfig, flag)
        add(f"--{flag}", type=kind, default=default, metavar=value, help=f"{what} [{default}]")
    add(
        "--horizontal_flip",
        action="store_true",
        help="mirror half of the images; only where no caption names a side",
    )


def _add_output_flags(flags: Parser) -> None:
    add = group(flags, "output").add_argument
    add("--output", required=True, type=local_place, metavar="DIR", help="directory to write")
    add(
        "--save_precision",
        choices=("fp16", "fp32"),
        default="fp16",
        help="precision of the saved weights [fp16]",
    )
    add("--overwrite", action="store_true", help="train anew and replace the model in the output")


def _add_running_flags(flags: Parser) -> None:
    add = group(flags, "running").add_argument
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, help="cpu or cuda [cuda where there is one]")
    precision = PretrainConfig.precision
    add(
        "--precision",
        choices=("fp32", "bf16"),
        default=precision,
        help=f"precision of the arithmetic [{precision}]",
    )
    add(
        "--micro_batch_size",
        type=int,
        metavar="N",
        help="rows whose activations a process holds at a time; the gradients stay the whole "
        "batch's [all of them]",
    )
    add(
        "--activation_checkpointing",
        action="store_true",
        help="recompute activations inside blocks: a third more time, a fraction of the memory",
    )
    steps = PretrainConfig.checkpoint_every
    add(
        "--checkpoint_every",
        type=int,
        default=steps,
        metavar="STEPS",
        help=f"steps between checkpoints, which an interrupted training resumes from [{steps}]",
    )
    add(
        "--threads",
        type=int,
        default=usable_cores(),
        metavar="N",
        help="threads that decode images [one a core]",
    )
