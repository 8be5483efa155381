"""`clip-beam convert`: any checkpoint -> a directory of safetensors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from clip_core.checkpoints.saving import DTYPES, save_model_directory
from clip_core.loading import load
from pipelines.command_line import exits
from pipelines.command_line.model_flags import add_checkpoint_flags, load_options
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import local_place, place
from pipelines.training.model_directories import first_foreign, put_model


def parser() -> argparse.ArgumentParser:
    """Builds the command line of `clip-beam convert`."""
    flags = Parser(
        prog="clip-beam convert",
        description="Convert a checkpoint to a model directory of safetensors, which open_clip "
        "and, for ViTs, Hugging Face load too.",
    )
    add = group(flags, "model").add_argument
    add(
        "--model",
        required=True,
        type=place,
        metavar="URI",
        help="model to convert, as `clip-beam embed` takes it",
    )
    add_checkpoint_flags(flags)
    add = group(flags, "output").add_argument
    add("--output", required=True, type=local_place, metavar="DIR", help="directory to make")
    add(
        "--save_precision",
        choices=tuple(DTYPES),
        default="fp32",
        help="precision of the saved weights [fp32]",
    )
    add("--overwrite", action="store_true", help="replace the model that the output holds")
    return flags


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    try:
        convert(options)
    except (ValueError, OSError) as error:
        return exits.fail("convert", str(error), exits.WRONG_USAGE)
    files = sorted(file.name for file in options.output.iterdir())
    print(f"model   {options.output}")
    print(f"files   {', '.join(files)}")
    return 0


def convert(options: argparse.Namespace) -> None:
    """Loads and saves.

    Raises:
        ValueError: if the model cannot be read, or the output holds files already.
    """
    output: Path = options.output
    _check_room(output, options.overwrite)
    model = load(options.model, **load_options(options).arguments())
    put_model(
        output,
        lambda folder: save_model_directory(
            folder, model.clip, model.tokenizer, dtype=options.save_precision
        ),
    )


def _check_room(output: Path, overwrite: bool) -> None:
    """Makes sure that nothing is replaced unasked, nor a file of others at all.

    Raises:
        ValueError: says what is there.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    foreign = first_foreign(output) if output.is_dir() else output
    if foreign is None and overwrite:
        return
    what, way_out = "files", ", or pass `--overwrite`"
    if foreign is not None:
        what, way_out = f"{str(foreign)!r}, of no model of this program", ""
    raise ValueError(
        f"expected `--output` to be a new directory, got {str(output)!r}, which holds {what}; "
        f"name another or remove it{way_out}"
    )


if __name__ == "__main__":
    exits.run(main)
