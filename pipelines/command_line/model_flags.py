"""Flags about a model that several commands share; without Beam, so that these start quickly."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from clip_core.load_options import LoadOptions
from pipelines.command_line.parser import group
from pipelines.command_line.places import place

_NAMED_MODEL = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_]*)=(?P<uri>.+)")


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what a checkpoint does not, for every command that loads one."""
    add = group(parser, "model").add_argument
    add(
        "--arch",
        metavar="NAME",
        help="OpenAI's or open_clip's name of the architecture of a bare state dict, where shapes "
        "do not tell",
    )
    add("--activation", choices=("quick_gelu", "gelu"), help="activation of a bare state dict")
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
    add = group(parser, "running").add_argument
    add("--device", default="auto", help="cpu, cuda or auto [auto]")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="precision of the arithmetic [auto: fp32 on a CPU, bf16 or fp16 on a GPU]",
    )


def add_model_name_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that chooses one of the models of a run."""
    add = group(parser, "model").add_argument
    add("--model_name", metavar="NAME", help="which model of a run with several")


def load_options(options: argparse.Namespace) -> LoadOptions:
    """Returns what the flags of `add_checkpoint_flags` say, and `--image_policy` where there is."""
    return LoadOptions(
        arch=options.arch,
        activation=options.activation,
        vocab=options.vocab,
        cache_dir=options.model_cache,
        image_policy=getattr(options, "image_policy", LoadOptions.image_policy),
    )


def models_of(given: Sequence[str]) -> str | dict[str, str]:
    """Takes NAME=URI apart; one model needs no name.

    Raises:
        ValueError: if a name is missing, is there twice, or cannot begin a column's name.
    """
    parts = [_NAMED_MODEL.fullmatch(text) for text in given]
    if len(given) == 1 and parts[0] is None:
        return given[0]
    named: dict[str, str] = {}
    for text, part in zip(given, parts, strict=True):
        if part is None:
            raise ValueError(
                f"expected `--model NAME=URI` for each of several, got {text!r}; begin with a name "
                "of letters, digits and underscores, as in b32=ViT-B/32"
            )
        if part["name"].lower() in (name.lower() for name in named):
            raise ValueError(f"two models are called {part['name']!r}; give them different names")
        named[part["name"]] = place(part["uri"])
    return named
