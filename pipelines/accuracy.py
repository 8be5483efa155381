"""How often labels are right: in total, by class, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

WIDEST_NAME = 28  # characters of a label in the table


class Accuracy:
    """Counts of right and wrong labels.

    Args:
        labels: names of the classes.

    Attributes:
        confusion: [labels, labels] int64; rows are the truth, columns the label given.
        in_top_5: [labels] int64, rows whose truth is among the five likeliest labels.
        without_truth: rows whose truth is not known, or not among the labels; in no share.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.confusion = np.zeros((len(labels), len(labels)), np.int64)
        self.in_top_5 = np.zeros(len(labels), np.int64)
        self.without_truth = 0
        self._index = {label: index for index, label in enumerate(labels)}

    def add(self, logits: np.ndarray, truth: Sequence[str | None]) -> None:
        """Counts a batch.

        Args:
            logits: [rows, labels].
            truth: [rows] names of classes.
        """
        known = np.array([self._index.get(name, -1) if name else -1 for name in truth], np.int64)
        self.without_truth += int((known < 0).sum())
        logits, known = logits[known >= 0], known[known >= 0]
        np.add.at(self.confusion, (known, logits.argmax(axis=1)), 1)
        ahead = (logits > logits[np.arange(len(known)), known][:, None]).sum(axis=1)
        np.add.at(self.in_top_5, known[ahead < 5], 1)

    def merge(self, other: Accuracy) -> None:
        """Adds the counts of other rows, with the same labels."""
        self.confusion += other.confusion
        self.in_top_5 += other.in_top_5
        self.without_truth += other.without_truth

    @property
    def rows(self) -> int:
        """Rows with a known truth."""
        return int(self.confusion.sum())

    @property
    def top_1(self) -> float:
        """Share of rows whose likeliest label is right; 0 of no rows."""
        return float(np.trace(self.confusion) / max(self.rows, 1))

    @property
    def top_5(self) -> float:
        """Share of rows whose truth is among the five likeliest labels; 0 of no rows."""
        return float(self.in_top_5.sum() / max(self.rows, 1))

    @property
    def shares(self) -> np.ndarray:
        """The confusion [labels, labels] as shares of each true class's rows."""
        return self.confusion / np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)

    def table(self) -> str:
        """Returns a line for each class that has rows: its top-1 accuracy and main confusion."""
        lines = [f"{'class':<{WIDEST_NAME}}{'rows':>8}{'top-1':>8}  most often taken for"]
        for index, name in enumerate(self.labels):
            rows = int(self.confusion[index].sum())
            if rows:
                share = self.confusion[index, index] / rows
                lines.append(
                    f"{name[: WIDEST_NAME - 1]:<{WIDEST_NAME}}{rows:>8}{share:>8.3f}"
                    f"  {self._taken_for(index)}".rstrip()
                )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        by_class = {
            name: {"rows": int(row.sum()), "top_1": float(row[index] / row.sum())}
            for index, (name, row) in enumerate(zip(self.labels, self.confusion, strict=True))
            if row.sum()
        }
        return {
            "rows": self.rows,
            "without_truth": self.without_truth,
            "top_1": self.top_1,
            "top_5": self.top_5,
            "by_class": by_class,
        }

    def _taken_for(self, index: int) -> str:
        wrong = self.confusion[index].copy()
        wrong[index] = 0
        if not wrong.any():
            return ""
        return f"{self.labels[int(wrong.argmax())]} ({wrong.max()})"
