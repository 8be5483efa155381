"""The command-line parser of every command: one-line errors, suggestions for misspelt flags."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

from pipelines.process import WRONG_USAGE
from pipelines.redaction import scrub


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations, and says in one sentence what is wrong and what to do."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def parse_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> argparse.Namespace:
        """Parses `args`; ends the program with exit status 2 when a flag is unknown."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown_message(unknown[0]))
        return found

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses `args`; a misspelt required flag is reported as unknown rather than as missing."""
        args = list(sys.argv[1:] if args is None else args)
        given = [arg.split("=", 1)[0] for arg in args if arg.startswith("--")]
        known = self._option_string_actions
        missing = [flag for flag in known if known[flag].required and flag not in given]
        for flag in given:
            if flag not in known and difflib.get_close_matches(flag, missing):
                self.error(self._unknown_message(flag))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints one line, without credentials, and ends the program with exit status 2."""
        print(f"{self.prog}: {scrub(message)}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)

    def _unknown_message(self, unknown: str) -> str:
        if not unknown.startswith("-"):
            return f"expected flags only, got {unknown!r}"
        flag = unknown.split("=", 1)[0]
        close = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"unknown flag {flag}" + (f"; did you mean {close[0]}?" if close else "")
