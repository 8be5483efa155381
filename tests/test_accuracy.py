import numpy as np
import pytest

from pipelines.accuracy import Accuracy


def logits(*labels, count=3):
    return np.eye(count, dtype=np.float32)[list(labels)]


def test_confusion_has_the_truth_in_rows():
    accuracy = Accuracy(["cat", "dog", "owl"])
    accuracy.add(logits(0, 1, 1), ["cat", "cat", "dog"])
    accuracy.add(logits(2), ["cat"])
    assert accuracy.confusion.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert accuracy.top_1 == 0.5 and accuracy.rows == 4
    assert accuracy.shares[0].tolist() == pytest.approx([1 / 3] * 3)


def test_top_5_counts_the_truth_at_the_fifth_place_and_not_at_the_sixth():
    accuracy = Accuracy([f"class {n}" for n in range(8)])
    row = -np.arange(8, dtype=np.float32)[None]
    accuracy.add(np.repeat(row, 2, axis=0), ["class 4", "class 5"])
    assert accuracy.top_5 == 0.5 and accuracy.top_1 == 0.0


@pytest.mark.parametrize("truth", [None, "fish", ""])
def test_rows_without_a_known_truth_are_in_no_share(truth):
    accuracy = Accuracy(["cat", "dog", "owl"])
    accuracy.add(logits(0, 0), ["cat", truth])
    assert accuracy.without_truth == 1 and accuracy.rows == 1 and accuracy.top_1 == 1.0


def test_table_names_the_main_confusion_and_leaves_out_empty_classes():
    accuracy = Accuracy(["cat", "dog", "owl"])
    accuracy.add(logits(1, 1, 2, 1), ["cat", "cat", "cat", "dog"])
    lines = accuracy.table().splitlines()
    assert lines[1].split() == ["cat", "3", "0.000", "dog", "(2)"]
    assert lines[2].split() == ["dog", "1", "1.000"]
    assert len(lines) == 3


def test_no_rows_give_zeros():
    accuracy = Accuracy(["cat"])
    accuracy.add(np.empty((0, 1), np.float32), [])
    assert accuracy.top_1 == accuracy.top_5 == 0.0
    assert accuracy.to_json() == {
        "rows": 0,
        "without_truth": 0,
        "top_1": 0.0,
        "top_5": 0.0,
        "by_class": {},
    }
