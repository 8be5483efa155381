import numpy as np
import pytest

from pipelines.curation.top_fraction import histogram, threshold_of_fraction


def by_sorting(scores, fraction):
    """DataComp's rule as its paper states it: the value at index int(N * k), descending."""
    finite = np.sort(scores[np.isfinite(scores)])[::-1]
    return finite[min(int(len(finite) * fraction), len(finite) - 1)]


def in_pieces(scores):
    return lambda high: (histogram([piece], high) for piece in np.array_split(scores, 7))


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["cosines", "halves", "constant", "extremes"])
def test_threshold_is_that_of_a_full_sort(kind, fraction):
    generator = np.random.default_rng(3)
    scores = generator.normal(0.2, 0.1, 5003).astype(np.float32)
    if kind == "halves":  # DataComp's published scores, full of ties
        scores = scores.astype(np.float16).astype(np.float32)
    if kind == "constant":
        scores[:] = 0.25
    if kind == "extremes":
        scores *= np.float32(10.0) ** generator.integers(-38, 38, len(scores)).astype(np.float32)
    assert threshold_of_fraction(in_pieces(scores), fraction) == by_sorting(scores, fraction)


def test_two_hundred_thousand_rows_with_ties_keep_what_a_sort_keeps():
    generator = np.random.default_rng(0)
    scores = generator.normal(0.25, 0.08, 200_000).astype(np.float16).astype(np.float32)
    threshold = threshold_of_fraction(in_pieces(scores), 0.3)
    expected = by_sorting(scores, 0.3)
    assert threshold == expected
    assert np.count_nonzero(scores >= threshold) > 60_000  # ties are kept


def test_index_is_cut_and_not_rounded():
    scores = np.arange(10, dtype=np.float32)
    assert threshold_of_fraction(in_pieces(scores), 0.39) == 6.0  # index 3 of 9, 8, 7, 6


def test_what_is_no_number_is_left_out():
    scores = np.array([np.nan, 0.5, np.inf, 0.25, -np.inf], np.float32)
    assert threshold_of_fraction(in_pieces(scores), 1.0) == 0.25
    assert threshold_of_fraction(in_pieces(scores[:1]), 1.0) is None
    assert threshold_of_fraction(lambda high: [], 0.3) is None


def test_negative_zero_equals_zero():
    scores = np.array([0.0, -0.0, 1.0, -1.0], np.float32)
    assert threshold_of_fraction(in_pieces(scores), 0.5) == 0.0
    assert np.signbit(np.float32(threshold_of_fraction(in_pieces(scores), 0.5))) == np.False_
