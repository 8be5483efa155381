import tracemalloc

import numpy as np
import pytest

from pipelines.queries.accuracy import Accuracy


def logits(*labels, count=3):
    return np.eye(count, dtype=np.float32)[list(labels)]


def test_confusion_has_the_truth_in_rows():
    accuracy = Accuracy(["cat", "dog", "owl"])
    accuracy.add(logits(0, 1, 1), ["cat", "cat", "dog"])
    accuracy.add(logits(2), ["cat"])
    assert accuracy.taken == {0: {0: 1, 1: 1, 2: 1}, 1: {1: 1}}
    assert accuracy.top_1 == 0.5 and accuracy.rows == 4
    assert accuracy.shares()[0].tolist() == pytest.approx([1 / 3] * 3)


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


def test_truth_may_be_the_number_of_a_label_where_no_label_is_a_number():
    accuracy = Accuracy(["cat", "dog", "owl"])
    accuracy.add(logits(0, 1, 1, 2, 0), ["0", "1.0", "dog", "3", "1.5"])
    assert (accuracy.rows, accuracy.by_number, accuracy.without_truth) == (3, 2, 2)
    assert accuracy.top_1 == 1.0
    accuracy = Accuracy(["7", "1", "0"])
    accuracy.add(logits(2, 1), ["0", "2"])
    assert (accuracy.rows, accuracy.by_number, accuracy.top_1) == (1, 0, 1.0)


def test_memory_does_not_grow_with_the_square_of_the_labels():
    tracemalloc.start()
    parts = [Accuracy([f"class {n}" for n in range(20_000)]) for _ in range(2)]
    parts[0].merge(parts[1])
    assert parts[0].top_1 == 0.0 and parts[0].table() and parts[0].to_json()["rows"] == 0
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_counts_of_parts_add_up():
    whole, parts = Accuracy(["cat", "dog"]), [Accuracy(["cat", "dog"]) for _ in range(2)]
    for part, truth in zip(parts, (["cat", "dog"], ["dog", "owl"]), strict=True):
        part.add(logits(0, 0, count=2), truth)
        whole.add(logits(0, 0, count=2), truth)
    parts[0].merge(parts[1])
    assert parts[0].to_json() == whole.to_json() and parts[0].table() == whole.table()


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
