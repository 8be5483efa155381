"""Says to a shell in flags what a library says in parameters."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Flags of the command that is at work; None outside of one.
_flags: ContextVar[frozenset[str] | None] = ContextVar("_flags", default=None)
# Parameters that a flag calls otherwise, where the command has none of their own name.
_FLAG_OF = {
    "cache_dir": "model_cache",
    "dtype": "embedding_dtype",
    "format": "manifest_format",
    "resampling": "decode",
}
_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_GIVEN = re.compile(rf"([a-z_]+)(?:=({_TEXT}|\({_TEXT},\)))?")
_QUOTED = re.compile(rf"`{_GIVEN.pattern}(?:, {_GIVEN.pattern})*`")


@contextmanager
def noting_flags() -> Iterator[None]:
    """Has the flags noted of a command and of those that it calls."""
    before = _flags.set(frozenset())
    try:
        yield
    finally:
        _flags.reset(before)


def note_flags(flags: Iterable[str]) -> None:
    """Notes which flags the command that is at work has; nothing outside of one."""
    known = _flags.get()
    if known is not None:
        _flags.set(known | set(flags))


def in_flags(message: str) -> str:
    """Says in flags what a library says in parameters.

    What stands between backticks becomes what is to be typed: `vocab` becomes `--vocab`,
    `device='cuda', precision='bf16'` becomes `--device cuda --precision bf16`, and of a tuple with
    one value it is this. What is no flag of the command that is at work stays.
    """

    def said(found: re.Match[str]) -> str:
        words = [_in_flag(*given) for given in _GIVEN.findall(found[0][1:-1])]
        return f"`{' '.join(words)}`" if all(words) else found[0]

    return _QUOTED.sub(said, message)


def _in_flag(name: str, value: str) -> str:
    """Returns a flag and its value, if it has one, as a shell takes them; "" if there is none."""
    names = (f"--{name}", f"--{_FLAG_OF.get(name, name)}")
    flag = next((each for each in names if each in (_flags.get() or ())), "")
    if not flag or not value:
        return flag
    try:
        given = ast.literal_eval(value)
    except (SyntaxError, ValueError):  # it only looks like a value
        return ""
    return shlex.join([flag, *((given,) if isinstance(given, str) else given)])
