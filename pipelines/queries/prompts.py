"""The command line of `clip-beam classify`, and what it says about labels and prompts."""

from __future__ import annotations

import argparse
from itertools import chain

from clip_core import zero_shot
from pipelines.command_line.optional_packages import require_matplotlib
from pipelines.command_line.parser import BEAM_FLAGS, Parser, group
from pipelines.command_line.places import manifest_place, place, readable_place
from pipelines.engine.slots.choice import add_engine_flags
from pipelines.images.trust import add_trust_flags
from pipelines.output.whole_runs import add_incomplete_flag
from pipelines.queries.label_lists import read_labels, read_templates
from pipelines.queries.query_model import add_device_flag, add_model_flags

TOP_K = 5
MOST_PLOTTED = 1000  # classes, whose matrix has a million places
PLOT_FORMATS = (".png", ".svg")


def parser() -> Parser:
    """Builds the command line of `clip-beam classify`."""
    flags = Parser(
        prog="clip-beam classify",
        description="Label the images of a run or a manifest by prompts, zero-shot.",
        epilog=f"{BEAM_FLAGS} So do those of `clip-beam embed` with --manifest.",
    )
    _add_input_flags(flags)
    _add_label_flags(flags)
    add_model_flags(flags)
    _add_output_flags(flags)
    add_device_flag(flags)
    add_engine_flags(group(flags, "running").add_argument)
    return flags


def _add_input_flags(flags: Parser) -> None:
    input_flags = group(flags, "input")
    rows = input_flags.add_mutually_exclusive_group(required=True)
    rows.add_argument("--input", type=place, metavar="URI", help="output of `clip-beam embed`")
    rows.add_argument(
        "--manifest",
        action="append",
        type=manifest_place,
        metavar="URI",
        help="rows to embed first, into OUTPUT/embedded; repeatable",
    )
    add_incomplete_flag(input_flags)
    add_trust_flags(input_flags)


def _add_label_flags(flags: Parser) -> None:
    add = group(flags, "labels").add_argument
    add(
        "--labels",
        required=True,
        action="append",
        type=readable_place,
        metavar="FILE|A,B,C",
        help="classes, one a line or as JSON in a file; repeatable",
    )
    add(
        "--templates",
        action="append",
        type=readable_place,
        metavar="FILE|none|simple",
        help="prompts with {} where the label goes, one a line, whose mean is taken; `none` is the "
        "bare label, `simple` eight prompts; repeatable [simple]",
    )
    add(
        "--truth_column",
        metavar="NAME",
        help="column of the true class or its number: of the run, or of the file in --truth",
    )
    add("--truth", type=readable_place, metavar="URI", help="file with `uid` and the true class")


def _add_output_flags(flags: Parser) -> None:
    add = group(flags, "output").add_argument
    add("--output", required=True, type=place, metavar="URI", help="directory to write")
    add(
        "--top_k",
        type=int,
        default=TOP_K,
        metavar="N",
        help=f"labels to write for each row [{TOP_K}]",
    )
    add(
        "--confusion_plot",
        type=place,
        metavar="URI",
        help="PNG or SVG to write, of what is taken for what",
    )
    add(
        "--overwrite",
        action="store_true",
        help="remove the labels that the output holds, and with --manifest its embeddings, too",
    )


def read_prompts(options: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns labels and templates, all that goes with them checked.

    Raises:
        ValueError, OSError, MissingExtraError: what is wrong, in one sentence with the remedy.
    """
    _check_flags(options)
    labels = tuple(chain(*map(read_labels, options.labels)))
    zero_shot.check_labels(labels)
    templates = tuple(chain(*map(read_templates, options.templates or ["simple"])))
    zero_shot.check_templates(templates)
    if options.confusion_plot and len(labels) > MOST_PLOTTED:
        raise ValueError(
            f"`confusion_plot` shows at most {MOST_PLOTTED} classes, got {len(labels)} labels; "
            "leave it out"
        )
    return labels, templates


def _check_flags(options: argparse.Namespace) -> None:
    if options.top_k < 1:
        raise ValueError(f"`top_k` must be a positive int, got {options.top_k}")
    if (options.truth or options.confusion_plot) and not options.truth_column:
        raise ValueError("expected `truth_column` with `truth` or `confusion_plot`")
    if options.confusion_plot:
        if not options.confusion_plot.lower().endswith(PLOT_FORMATS):
            raise ValueError(
                f"`confusion_plot` must end in {' or '.join(PLOT_FORMATS)}, got "
                f"{options.confusion_plot!r}"
            )
        require_matplotlib()
