"""Flags about a model that several commands share; without Beam, so that these start quickly."""

from __future__ import annotations

import argparse

from clip_core.load_options import LoadOptions
from pipelines.command_line.places import place


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what a checkpoint does not, for every command that loads one."""
    add = parser.add_argument
    add("--arch", help="architecture of a bare state dict, where shapes do not tell")
    add("--activation", choices=("quick_gelu", "gelu"), help="of a bare state dict")
    add(
        "--vocab",
        type=place,
        metavar="URI",
        help="BPE vocabulary [from the model, else an installed one]",
    )
    add(
        "--model_cache",
        type=place,
        metavar="DIR",
        help="where downloaded models are kept [$CLIP_BEAM_CACHE, else ~/.cache/clip-beam]",
    )


def add_place_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where and how exactly a model computes."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto [auto]")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="[auto: fp32 on a CPU, bf16 or fp16 on a GPU]",
    )


def load_options(options: argparse.Namespace) -> LoadOptions:
    """Returns what the flags of `add_checkpoint_flags` say, and `--image_policy` where there is."""
    return LoadOptions(
        arch=options.arch,
        activation=options.activation,
        vocab=options.vocab,
        cache_dir=options.model_cache,
        image_policy=getattr(options, "image_policy", LoadOptions.image_policy),
    )
