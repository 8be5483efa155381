"""Writes docs/commands.md from the command lines themselves: `make docs`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from pipelines.cli import COMMANDS

PAGE = Path(__file__).with_name("commands.md")
WIDTH = 120
INTRODUCTION = (
    "`make docs` writes this page from the command lines themselves; `clip-beam help COMMAND` "
    "prints the same on a terminal. What stands in brackets is the default. A flag that is "
    "*repeatable* may be given again, and all its values count. A `~` is expanded in every flag "
    "that names a place. A command ends with 0 when it has done its work, 1 when that failed or "
    "found something wrong, 2 when its flags or what they name are wrong, 130 after Ctrl-C and 143 "
    "after SIGTERM."
)


def reference() -> str:
    """Returns the page."""
    head = ["# Every command and its flags", "", *_wrapped(INTRODUCTION), ""]
    return "\n".join([*head, *map(_section, COMMANDS)])


def _section(command: str) -> str:
    parser: argparse.ArgumentParser = import_module(f"pipelines.{command}").parser()
    lines = [f"## {command}", "", *_wrapped(parser.description or ""), ""]
    for group in parser._action_groups:
        flags = [action for action in group._group_actions if action.dest != "help"]
        if flags:
            lines += [f"{str(group.title).capitalize()}:", ""]
            lines += [line for action in flags for line in _flag(action, _is_needed(action, group))]
            lines.append("")
    lines += [*_wrapped(parser.epilog), ""] if parser.epilog else []
    return "\n".join(lines)


def _is_needed(action: argparse.Action, group: argparse._ArgumentGroup) -> str:
    """Says whether a flag has to be given, in brackets behind its name."""
    if action.required:
        return " (required)"
    for either in group._mutually_exclusive_groups:
        if action in either._group_actions:
            others = " or ".join(
                f"`{other.option_strings[0]}`"
                for other in either._group_actions
                if other is not action
            )
            return f" (required: this or {others})" if either.required else f" (not with {others})"
    return ""


def _flag(action: argparse.Action, needed: str) -> list[str]:
    choices = [str(choice) for choice in action.choices or ()]
    value = action.metavar or "|".join(choices) or action.dest.upper()
    name = action.option_strings[0] + (f" {value}" if action.nargs != 0 else "")
    meaning = (action.help or "").replace("%%", "%")  # as argparse prints it
    if action.metavar and choices:
        meaning += f"; one of {', '.join(choices)}"
    return list(_wrapped(f"- `{name}`{needed}: {meaning}", "  "))


def _wrapped(text: str, indent: str = "") -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
