"""Whether an item of work is to blame for the deaths of slots that held it."""

from __future__ import annotations

import enum
from collections import Counter

ALONE_DEATHS = 3  # with one and the same item
LOST_SLOTS = 10  # whose machine or network failed, while they held one and the same item


class Verdict(enum.Enum):
    """How an item is given again."""

    AGAIN = "as any other"
    ALONE = "alone, to a slot that reads nothing ahead"
    ISOLATED = "alone, with what may kill a process in processes of their own"
    SET_ASIDE = "not at all"


class Blame:
    """Counts the deaths of slots by what they held.

    Suspects are the items given and not told done: opening one, writing and uploading kill as well
    as what lies between. With several suspects each is tried alone. After the third death alone the
    item is tried with isolation, and set aside if that dies, too. An error that was told is no
    crash, which isolation could keep away.
    """

    def __init__(self) -> None:
        self._alone: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._isolated: set[str] = set()

    def deaths(self, name: str) -> int:
        """Returns how many slots died with an item alone."""
        return self._alone[name]

    def is_isolated(self, name: str) -> bool:
        """Tells whether an item is to be tried with isolation."""
        return name in self._isolated

    def after_death(self, name: str, *, alone: bool, told: bool) -> Verdict:
        """Decides about an item that a slot held when it died.

        Args:
            alone: whether it held nothing else.
            told: whether it had said what went wrong.
        """
        if not alone:
            return Verdict.ALONE
        self._alone[name] += 1
        if name in self._isolated:
            return Verdict.SET_ASIDE
        if self._alone[name] < ALONE_DEATHS:
            return Verdict.ALONE
        if told:
            return Verdict.SET_ASIDE
        self._isolated.add(name)
        return Verdict.ISOLATED

    def after_loss(self, name: str, *, alone: bool) -> Verdict:
        """Decides about an item of a slot whose machine, or the way to it, was lost: now and then
        that is the item's doing, too."""
        self._lost[name] += 1
        if self._lost[name] % LOST_SLOTS:
            return Verdict.AGAIN
        return self.after_death(name, alone=alone, told=False)
