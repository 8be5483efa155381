import math

import pytest
import torch
import torch.nn.functional as F

from clip_core.training.contrastive import clamp_temperature, contrastive_loss, retrieval_recall
from making import random_clip


def unit(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_loss_is_the_mean_of_both_directions():
    torch.manual_seed(0)
    image, text = F.normalize(torch.randn(5, 8), dim=-1), F.normalize(torch.randn(5, 8), dim=-1)
    logits = 7.0 * image @ text.T
    by_hand = (
        torch.stack(
            [-logits.log_softmax(1)[i, i] - logits.log_softmax(0)[i, i] for i in range(5)]
        ).mean()
        / 2
    )
    assert torch.allclose(contrastive_loss(image, text, torch.tensor(7.0)).loss, by_hand)


def test_pairs_that_match_have_low_loss_and_full_accuracy():
    rows = torch.eye(4)
    good = contrastive_loss(rows, rows, torch.tensor(50.0))
    bad = contrastive_loss(rows, rows.roll(1, 0), torch.tensor(50.0))
    assert good.loss < 1e-6 and good.accuracy == 1
    assert bad.loss > 10 and bad.accuracy == 0


def test_temperature_is_clamped_to_the_papers_bounds(tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    for start, end in ((9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        clip.logit_scale.data.fill_(start)
        clamp_temperature(clip)
        assert float(clip.logit_scale.detach()) == pytest.approx(end)


def test_recall_counts_rows_whose_own_pair_is_among_the_best_k():
    image = unit((1, 0, 0), (0, 1, 0), (0, 0, 1))
    text = unit((1, 0, 0), (0, 0.6, 0.8), (0, 0.8, 0.7))
    assert retrieval_recall(image, text, 1) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert retrieval_recall(image, text, 2) == (1.0, 1.0)


def test_ties_count_against_the_row():
    same = unit((1, 0), (1, 0))
    assert retrieval_recall(same, same, 1) == (0.0, 0.0)


def test_equal_captions_are_one_and_each_of_their_pictures_is_right():
    """Two labels, told apart without a fault; as rows, most of them would be wrong."""
    image = unit((1, 0.1), (1, 0.2), (1, 0.3), (0.1, 1), (0.2, 1), (0.3, 1))
    text = unit(*[(1, 0)] * 3, *[(0, 1)] * 3)
    captions = torch.tensor([[1, 7]] * 3 + [[1, 8]] * 3)
    assert retrieval_recall(image, text, 1, captions) == (1.0, 1.0)
    assert max(retrieval_recall(image, text, 1)) < 0.4


def test_wrong_picture_counts_against_every_row_of_its_caption():
    image = unit((1, 0), (0, 1), (0.1, 1))  # the second is nearer to the other caption
    text = unit((1, 0), (1, 0), (0, 1))
    captions = torch.tensor([[1], [1], [2]])
    to_text, to_image = retrieval_recall(image, text, 1, captions)
    assert to_text == pytest.approx(2 / 3)
    assert to_image == pytest.approx(2 / 3)  # of the last caption the wrong image is nearest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_right(value):
    broken = torch.full((3, 2), value)
    assert retrieval_recall(broken, broken, 1) == (0.0, 0.0)
    half = unit((1, 0), (0, 1), (0.6, 0.8))
    half[0] = value
    to_text, to_image = retrieval_recall(half, unit((1, 0), (0, 1), (0.6, 0.8)), 1)
    assert to_text < 0.7 and to_image < 0.7
