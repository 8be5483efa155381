"""The parts of a run that several launchers share out, and the locks that each of them holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipelines.storage import listing, uris

NAME = "_RUNNING"


@dataclass(frozen=True)
class Part:
    """The share of the units that one of several launchers takes: every `of`-th, from `number`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Part:
        """Reads `3/64`.

        Raises:
            ValueError: if it is something else.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found and 1 <= int(found[1]) <= int(found[2]):
            return cls(int(found[1]), int(found[2]))
        raise ValueError(f"expected a part such as 3/64, from 1/64 to 64/64, got {text!r}")


def add_part_flag(add: Any) -> None:
    """Adds the flag that names a part.

    Args:
        add: `add_argument` of a group of a parser.
    """
    add(
        "--part",
        metavar="K/N",
        help="do the K-th of N parts of the units, beside launchers that do the others; close the "
        "run with `clip-beam finish` [all]",
    )


def lock_uri(output: str, part: Part | None = None) -> str:
    """Names the lock of an output, or of one part of its run."""
    name = NAME if part is None else f"{NAME}.{part.number}-of-{part.of}"
    return uris.join(uris.normalize(output), name)


def part_locks(output: str) -> list[str]:
    """Lists the locks of parts that lie in an output."""
    prefix = f"{NAME}."
    return [uri for uri in listing.list_files(output) if uris.base_name(uri).startswith(prefix)]
