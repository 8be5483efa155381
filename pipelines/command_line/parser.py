"""The command-line parser of every command: one-line errors, suggestions, flags in groups."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from pipelines.command_line.exits import WRONG_USAGE
from pipelines.command_line.flag_names import in_flags, note_flags
from pipelines.storage.redaction import scrub

BEAM_FLAGS = "Apache Beam's own flags, such as --runner and --temp_location, ride along with these."


def group(parser: argparse.ArgumentParser, title: str) -> Any:
    """Returns the group of that title in `--help`, made where it is not there yet.

    Beam's parsers have none of our methods, so this is a function. What it returns has
    `add_argument` and is taken for a parser by those who only add flags.
    """
    made = {each.title: each for each in parser._action_groups}
    return made.get(title) or parser.add_argument_group(title)


class Usage(argparse.HelpFormatter):
    """Shows in the first line what has to be given, instead of every flag there is."""

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None,
    ) -> str:
        groups = [each for each in groups if each.required]
        either = [action for each in groups for action in each._group_actions]
        needed = [action for action in actions if action.required or action in either]
        return super()._format_usage(usage, needed, groups, prefix).rstrip() + " [flags]\n\n"


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations, and says in one sentence what is wrong and what to do."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=Usage, **settings)  # type: ignore[arg-type]

    def parse_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> argparse.Namespace:
        """Parses `args`; ends the program with exit status 2 when a flag is unknown."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse_unknown(unknown[0])
        return found

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses `args`; a misspelt required flag is reported as unknown rather than as missing."""
        args = list(sys.argv[1:] if args is None else args)
        words = self.words(args)
        given = [flag for flag, _ in words]
        known = self._option_string_actions
        note_flags(known)
        missing = [flag for flag in known if known[flag].required and flag not in given]
        for flag in given:
            if flag not in known and difflib.get_close_matches(flag, missing):
                self.refuse_unknown(flag)
        self._refuse_what_would_be_lost(words)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints one line, without credentials, and ends the program with exit status 2."""
        print(f"{self.prog}: {scrub(in_flags(message))}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)

    def words(self, args: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Returns each flag of a command line, as often as it is given, and the words behind it."""
        found: list[tuple[str, list[str]]] = []
        for arg in args:
            if arg.startswith("--"):
                flag, equals, value = arg.partition("=")
                found.append((flag, [value] if equals else []))
            elif found and arg not in self._option_string_actions:
                found[-1][1].append(arg)
        return found

    def _refuse_what_would_be_lost(self, words: Sequence[tuple[str, list[str]]]) -> None:
        """Refuses a second value, behind the first or with the flag given again."""
        first: dict[str, str] = {}
        for flag, values in words:
            action = self._option_string_actions.get(flag)
            if action is None or action.nargs not in (None, 0):
                continue
            takes = 0 if action.nargs == 0 else 1
            if len(values) > takes:
                self.error(_too_many(action, flag, values[takes:]))
            if flag in first and values and type(action) is argparse._StoreAction:
                self.error(f"expected `{flag}` once, got {first[flag]!r} and {values[0]!r}")
            if values:
                first[flag] = values[0]

    def refuse_unknown(self, unknown: str, others: Sequence[str] = ()) -> NoReturn:
        """Ends the program over a word that is no flag, with the nearest one as a suggestion.

        Args:
            others: flags that would do, besides those of this parser.
        """
        if not unknown.startswith("-"):
            self.error(f"expected flags only, got {unknown!r}")
        flag = unknown.split("=", 1)[0]
        close = difflib.get_close_matches(flag, [*self._option_string_actions, *others], n=1)
        self.error(f"unknown flag {flag}" + (f"; did you mean {close[0]}?" if close else ""))


def _too_many(action: argparse.Action, flag: str, words: Sequence[str]) -> str:
    """Says what to type instead of words that no flag takes."""
    if action.nargs == 0:
        return f"`{flag}` takes no value, got {words[0]!r}"
    message = f"expected one value for `{flag}`, got {words[0]!r} besides"
    if action.type not in (None, str, int, float):  # a place, of which a shell may make several
        suffix = os.path.splitext(words[0])[1]
        pattern = os.path.join(os.path.dirname(words[0]), f"*{suffix}")
        message += f"; to hand on a pattern, quote it: {flag} '{pattern}'"
    if isinstance(action, argparse._AppendAction):
        message += f"; or give the flag once for each: {flag} A {flag} B"
    return message
