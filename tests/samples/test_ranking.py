import numpy as np
import pytest

from pipelines.samples.ranking import auroc


@pytest.mark.parametrize(
    ("true", "false", "expected"),
    [([2, 3], [0, 1], 1.0), ([0], [1], 0.0), ([1], [1], 0.5), ([1, 3], [2], 0.5)],
)
def test_auroc_of_small_sets(true, false, expected):
    assert auroc(np.array(true), np.array(false)) == expected


def test_auroc_equals_the_share_of_ordered_pairs():
    rng = np.random.default_rng(0)
    true, false = rng.integers(0, 20, 50), rng.integers(0, 15, 70)
    pairs = (true[:, None] > false) + 0.5 * (true[:, None] == false)
    assert auroc(true, false) == pytest.approx(pairs.mean())


@pytest.mark.parametrize(("true", "false"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0])])
def test_scores_that_cannot_be_ranked_are_refused(true, false):
    with pytest.raises(ValueError, match="expected scores"):
        auroc(np.array(true), np.array(false))
