"""The command line of `clip-beam classify`, and what it says about labels and prompts."""

from __future__ import annotations

import argparse
from itertools import chain

from clip_core import zero_shot
from pipelines import storage
from pipelines.arguments import Parser
from pipelines.places import manifest_place, place, readable_place
from pipelines.plots import require_matplotlib
from pipelines.query_model import add_model_flags

TOP_K = 5
MAX_TEXT_BYTES = 16 << 20  # of a file of labels or templates
PLOT_FORMATS = (".png", ".svg")
_TEMPLATES = {"none": zero_shot.BARE_TEMPLATES, "simple": zero_shot.SIMPLE_TEMPLATES}


def parser() -> Parser:
    """Builds the command line of `clip-beam classify`."""
    flags = Parser(prog="clip-beam classify", description="Label images by prompts, zero-shot.")
    add = flags.add_argument
    rows = flags.add_mutually_exclusive_group(required=True)
    rows.add_argument("--input", type=place, metavar="URI", help="output of `clip-beam embed`")
    rows.add_argument(
        "--manifest",
        action="append",
        type=manifest_place,
        metavar="URI",
        help="rows to embed first, into OUTPUT/embedded; further flags are those of `embed`",
    )
    add("--output", required=True, type=place, metavar="URI", help="directory to write")
    add(
        "--labels",
        required=True,
        action="append",
        type=readable_place,
        metavar="FILE|A,B,C",
        help="classes, one a line in a file; repeatable",
    )
    add(
        "--templates",
        action="append",
        type=readable_place,
        metavar="FILE|none|simple",
        help="prompts with {} where the label goes, one a line; their mean is taken; repeatable "
        "[simple]",
    )
    add("--top_k", type=int, default=TOP_K, help=f"labels to write for each row [{TOP_K}]")
    add("--truth_column", metavar="NAME", help="true class: a kept column, or one of `--truth`")
    add("--truth", type=readable_place, metavar="URI", help="file with `uid` and the true class")
    add(
        "--confusion_plot",
        type=place,
        metavar="URI",
        help="PNG or SVG of what is taken for what",
    )
    add(
        "--overwrite",
        action="store_true",
        help="remove the labels that the output holds, and with `--manifest` its embeddings, too",
    )
    add_model_flags(flags)
    return flags


def read_prompts(options: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns labels and templates, the flags checked.

    Raises:
        ValueError, OSError, MissingExtraError: what is wrong, in one sentence with the remedy.
    """
    _check_flags(options)
    labels = tuple(chain(*(_read_lines(value, "labels") for value in options.labels)))
    zero_shot.check_labels(labels)
    templates = tuple(chain(*map(_templates, options.templates or ["simple"])))
    zero_shot.check_templates(templates)
    return labels, templates


def _check_flags(options: argparse.Namespace) -> None:
    if options.top_k < 1:
        raise ValueError(f"`--top_k` must be a positive int, got {options.top_k}")
    if (options.truth or options.confusion_plot) and not options.truth_column:
        raise ValueError("expected `--truth_column` with `--truth` or `--confusion_plot`")
    if options.confusion_plot:
        if not options.confusion_plot.lower().endswith(PLOT_FORMATS):
            raise ValueError(
                f"`--confusion_plot` must end in {' or '.join(PLOT_FORMATS)}, got "
                f"{options.confusion_plot!r}"
            )
        require_matplotlib()


def _templates(value: str) -> tuple[str, ...]:
    return _TEMPLATES.get(value) or _read_lines(value, "templates")


def _read_lines(value: str, what: str) -> tuple[str, ...]:
    """Returns the lines of a file, or the parts of a list with commas where there is no such file.

    Raises:
        ValueError: if it looks like the name of a file that is not there, or the file is no text.
    """
    if storage.exists(value):
        try:
            data = storage.read_retried(value, MAX_TEXT_BYTES)
            lines = data.decode("utf-8-sig").splitlines()
        except storage.TooLargeError as error:
            raise ValueError(f"expected less of {what} in {value!r}, got {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"expected {what} as UTF-8 text in {value!r}: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())
    if "," not in value and ("/" in value or value.endswith(".txt")):
        raise ValueError(f"there is no file {value!r}; expected one with {what}, one a line")
    return tuple(part.strip() for part in value.split(",") if part.strip())
