"""`clip-beam verify`: tells whether a model computes the same here, in the chosen precision."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from clip_core.inference.ready import ready_to_encode
from clip_core.inference.verification import TOLERANCE, Deviation, measure
from clip_core.loading import load
from pipelines.command_line import exits
from pipelines.command_line.model_flags import add_checkpoint_flags, add_place_flags, load_options
from pipelines.command_line.parser import Parser, group
from pipelines.command_line.places import place
from pipelines.encoding.models import resolve_device, resolve_precision, use_threads

DESCRIPTION = "Tell whether a model computes the same here, in the chosen precision, as fp32 does."


def parser() -> argparse.ArgumentParser:
    """Builds the command line of `clip-beam verify`."""
    flags = Parser(prog="clip-beam verify", description=DESCRIPTION)
    group(flags, "model").add_argument(
        "--model",
        required=True,
        type=place,
        metavar="URI",
        help="model to test, as `clip-beam embed` takes it",
    )
    add_checkpoint_flags(flags)
    add_place_flags(flags)
    return flags


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    about = load_options(options).arguments()
    try:
        reference = load(options.model, **about)
        model = load(options.model, device, precision=precision, **about)
        use_threads([model])
        ready_to_encode(model.clip)
        deviation = measure(reference, model)
    except (ValueError, OSError) as error:
        return exits.fail("verify", str(error), exits.WRONG_USAGE)
    passed = deviation.within(TOLERANCE[precision])
    for name in ("architecture", "activation", "checkpoint_sha256"):
        print(f"{name:<18} {reference.fingerprint[name]}")
    print(f"{'tested':<18} {precision} on {device}, against fp32 on cpu")
    _print_deviation(deviation, TOLERANCE[precision])
    print(f"{'verdict':<18} {'passed' if passed else 'FAILED'}")
    return 0 if passed else exits.FAILED


def _print_deviation(found: Deviation, limit: Deviation) -> None:
    for name, what in (
        ("image", "1 - cosine"),
        ("text", "1 - cosine"),
        ("similarity", "difference"),
    ):
        value, most = getattr(found, name), getattr(limit, name)
        print(f"{name:<18} {value:.1e} largest {what}, rounding is at most {most:.0e}")


if __name__ == "__main__":
    exits.run(main)
