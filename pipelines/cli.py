"""The console script: picks a subcommand and imports nothing but that."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from pipelines.command_line import exits
from pipelines.storage.redaction import start_logging

COMMANDS = {
    "demo": "make sample data, embed, filter and classify it, report on it",
    "sample": "write a sample image-text dataset, with the truth about it beside it",
    "check": "look at a sample and say what would go wrong with `embed`, before it does",
    "embed": "embed and score the image-text pairs of a manifest",
    "status": "say how the run of an output stands",
    "finish": "close a run whose launcher is gone, or that was done in parts",
    "filter": "keep the rows of a run that are worth training on",
    "heads": "score the images of a run with small models over their embeddings",
    "probe": "train such a model on labels of the images of a run",
    "classify": "label the images of a run by prompts, zero-shot",
    "report": "write an HTML page about a run",
    "export": "write a run as other tools have it, or as shards to train on",
    "search": "find the rows of a run nearest to a text or an image",
    "pretrain": "pretrain a CLIP from a manifest",
    "convert": "make a model directory of safetensors from any checkpoint",
    "verify": "test a model on this machine against plain fp32",
}


@exits.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs `clip-beam COMMAND ...`; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    while argv[:1] == ["help"]:  # `help embed` is `embed --help`
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"clip-beam {_version()}")
        return 0
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        return _refuse_unknown(command)
    start_logging()
    try:
        module = import_module(f"pipelines.{command}")
    except FileNotFoundError as error:
        return exits.without_temporary_directory(command, error)
    status: int = module.main(rest)
    return status


def _refuse_unknown(command: str) -> int:
    close = difflib.get_close_matches(command, [*COMMANDS, "help"], n=1)
    hint = f"; did you mean `{close[0]}`?" if close else f"; expected {', '.join(COMMANDS)}"
    print(f"clip-beam: unknown command {command!r}{hint}", file=sys.stderr)
    return exits.WRONG_USAGE


def _version() -> str:
    try:
        return version("clip-beam")
    except PackageNotFoundError:
        return "of a source tree that is not installed"


def console_script() -> None:
    """Runs `clip-beam` and ends its process."""
    exits.run(main)


def usage() -> str:
    """Returns the list of commands."""
    lines = [f"  {name:<10}{does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: clip-beam COMMAND [flags]",
            "       clip-beam help COMMAND",
            "       clip-beam --version",
            "",
            *lines,
            "",
            "New here? `clip-beam demo` shows what it does, in less than a minute.",
        ]
    )


if __name__ == "__main__":
    console_script()
