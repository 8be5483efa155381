"""The arithmetic of the benchmarks; what they measure is not tested."""

import pytest

from bench.gpu import busy_share
from bench.writing import writing_rate


@pytest.mark.parametrize(
    ("spans", "share"),
    [
        ([(0, 10)], 1),
        ([(5, 10), (0, 5)], 1),
        ([(0, 2), (8, 10)], 0.4),
        ([(0, 6), (4, 8), (1, 3)], 1),
        ([(0, 1), (0, 4), (2, 3), (6, 10)], 0.8),
    ],
    ids=["one", "adjacent", "a gap", "overlapping", "one within another"],
)
def test_time_in_which_kernels_overlap_counts_once(spans, share):
    assert busy_share(spans) == pytest.approx(share)


def test_written_tables_give_a_rate(tmp_path):
    assert writing_rate(tmp_path, 8, 1) > 0
