"""How often labels are right: in total, by class, and which class is taken for which."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

WIDEST_NAME = 28  # characters of a label in the table
_NUMBER = re.compile(r"([0-9]+)(?:\.0)?")  # with nulls beside it, pandas makes 3 of a column 3.0


class Accuracy:
    """Counts of right and wrong labels; it grows with the classes that occur, not with all.

    Args:
        labels: names of the classes.

    Attributes:
        taken: by the number of a true class, how often each label was given to its rows.
        in_top_5: rows whose truth is among the five likeliest labels.
        without_truth: rows whose truth is not known, or not among the labels; in no share.
        by_number: rows whose truth is the number of a label, from 0.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.taken: dict[int, Counter[int]] = {}
        self.in_top_5 = self.without_truth = self.by_number = 0
        self._index = {label: index for index, label in enumerate(labels)}
        self._takes_numbers = not any(map(_NUMBER.fullmatch, labels))

    def add(self, logits: np.ndarray, truth: Sequence[str | None]) -> None:
        """Counts a batch.

        Args:
            logits: [rows, labels].
            truth: [rows] names of classes, or their numbers where no label is a number.
        """
        known = np.array([self._class_of(name) for name in truth], np.int64)
        self.without_truth += int((known < 0).sum())
        logits, known = logits[known >= 0], known[known >= 0]
        for true, given in zip(known.tolist(), logits.argmax(axis=1).tolist(), strict=True):
            self.taken.setdefault(true, Counter())[given] += 1
        ahead = (logits > logits[np.arange(len(known)), known][:, None]).sum(axis=1)
        self.in_top_5 += int((ahead < 5).sum())

    def merge(self, other: Accuracy) -> None:
        """Adds the counts of other rows, with the same labels."""
        for true, given in other.taken.items():
            self.taken.setdefault(true, Counter()).update(given)
        self.in_top_5 += other.in_top_5
        self.without_truth += other.without_truth
        self.by_number += other.by_number

    @property
    def rows(self) -> int:
        """Rows with a known truth."""
        return sum(given.total() for given in self.taken.values())

    @property
    def top_1(self) -> float:
        """Share of rows whose likeliest label is right; 0 of no rows."""
        return sum(given[true] for true, given in self.taken.items()) / max(self.rows, 1)

    @property
    def top_5(self) -> float:
        """Share of rows whose truth is among the five likeliest labels; 0 of no rows."""
        return self.in_top_5 / max(self.rows, 1)

    def shares(self) -> np.ndarray:
        """Returns [labels, labels]: of each true class's rows, the share that got each label.

        It has a place for every two classes, so it is for a plot of not too many.
        """
        found = np.zeros((len(self.labels), len(self.labels)))
        for true, given in self.taken.items():
            found[true, list(given)] = np.array(list(given.values())) / given.total()
        return found

    def table(self) -> str:
        """Returns a line for each class that has rows: its top-1 accuracy and main confusion."""
        lines = [f"{'class':<{WIDEST_NAME}}{'rows':>8}{'top-1':>8}  most often taken for"]
        for true, given in sorted(self.taken.items()):
            rows, name = given.total(), self.labels[true]
            lines.append(
                f"{name[: WIDEST_NAME - 1]:<{WIDEST_NAME}}{rows:>8}{given[true] / rows:>8.3f}"
                f"  {self._taken_for(true)}".rstrip()
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        by_class = {
            self.labels[true]: {"rows": given.total(), "top_1": given[true] / given.total()}
            for true, given in sorted(self.taken.items())
        }
        return {
            "rows": self.rows,
            "without_truth": self.without_truth,
            "top_1": self.top_1,
            "top_5": self.top_5,
            "by_class": by_class,
        }

    def _class_of(self, name: str | None) -> int:
        """Returns the number of a true class; -1 if it is not known."""
        index = self._index.get(name, -1) if name else -1
        number = _NUMBER.fullmatch(name) if name and index < 0 and self._takes_numbers else None
        if number is None or int(number[1]) >= len(self.labels):
            return index
        self.by_number += 1
        return int(number[1])

    def _taken_for(self, true: int) -> str:
        wrong = {given: rows for given, rows in self.taken[true].items() if given != true}
        if not wrong:
            return ""
        most = max(sorted(wrong), key=wrong.__getitem__)
        return f"{self.labels[most]} ({wrong[most]})"
