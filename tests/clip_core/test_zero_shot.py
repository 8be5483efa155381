import numpy as np
import pytest

import clip_core
from clip_core.zero_shot import (
    BARE_TEMPLATES,
    SIMPLE_TEMPLATES,
    check_labels,
    softmax,
    zero_shot_logits,
    zero_shot_weights,
)


@pytest.fixture(scope="module")
def model(model_dir):
    return clip_core.load(str(model_dir))


def embedded(model, text):
    return model.encode_text(model.tokenize([text]), normalize=True)[0].numpy()


def test_bare_template_is_the_label_itself(model):
    weights = zero_shot_weights(model, ["red circle", "star"], BARE_TEMPLATES)
    assert weights.dtype == np.float32 and weights.shape == (2, model.config.embed_dim)
    np.testing.assert_allclose(weights[1], embedded(model, "star"), atol=1e-6)


def test_ensemble_is_the_renormalised_mean_of_normalised_prompts(model):
    (weights,) = zero_shot_weights(model, ["star"], ["a {}", "a photo of a large {}"])
    mean = embedded(model, "a star") + embedded(model, "a photo of a large star")
    np.testing.assert_allclose(weights, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(weights), 1, atol=1e-6)


def test_many_labels_are_encoded_in_parts_with_equal_results(model, monkeypatch):
    labels = [f"star {n}" for n in range(7)]
    whole = zero_shot_weights(model, labels)
    monkeypatch.setattr("clip_core.zero_shot._LABELS_AT_ONCE", 3)
    np.testing.assert_allclose(zero_shot_weights(model, labels), whole, atol=1e-6)


def test_label_may_hold_braces_and_a_prompt_may_be_longer_than_the_context(model):
    weights = zero_shot_weights(model, ["{0}", "{}", "star " * 100], SIMPLE_TEMPLATES)
    assert np.isfinite(weights).all()


@pytest.mark.parametrize(
    "labels, templates, message",
    [
        ([], ["{}"], "at least one label"),
        (["a", " "], ["{}"], "a blank one"),
        (["a", "b", "a"], ["{}"], "'a' more than once"),
        (["a"], [], "at least one template"),
        (["a"], ["{}", "a photo"], "in every template, got 'a photo'"),
    ],
)
def test_labels_and_templates_that_cannot_work_are_refused(model, labels, templates, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_weights(model, labels, templates)


@pytest.mark.parametrize(
    "labels",
    [
        ["Crane", "red", "crane"],
        ["a &amp; b", "A & b"],
        ["two  words", "two words"],
        ["cafÃ©", "café"],
    ],
)
def test_labels_that_are_one_to_the_model_are_both_named(labels):
    with pytest.raises(ValueError, match=f"got '{labels[0]}' and '{labels[-1]}', which are one"):
        check_labels(labels)


def test_labels_that_are_one_after_the_cut_are_both_named(model):
    long = "red star " * 40
    with pytest.raises(ValueError, match=f"got '{long}x' and '{long}y', which are one"):
        zero_shot_weights(model, [f"{long}x", "blue", f"{long}y"], ["a {}", "the {}"])
    assert len(zero_shot_weights(model, ["x", "y"], ["{} " + long, f"{long} {{}}"])) == 2


def test_label_that_is_blank_once_cleaned_is_refused():
    with pytest.raises(ValueError, match="a blank one"):
        check_labels(["a", "&nbsp;"])


def test_many_labels_are_checked_at_once():
    labels = [f"label {n}" for n in range(50_000)]
    check_labels(labels)
    with pytest.raises(ValueError, match="expected distinct labels, got 'label 7' more than once"):
        check_labels([*labels, "label 7"])


def test_probabilities_sum_to_one_and_do_not_overflow():
    images = np.array([[1, 0], [0, 1]], np.float32)
    logits = zero_shot_logits(images, np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32), 1e4)
    found = softmax(logits)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert found.argmax(axis=1).tolist() == [0, 1]


def test_probabilities_are_those_of_the_model(model):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64), np.uint8)
    import torch

    tokens = model.tokenize(["star", "circle"])
    expected = model(torch.from_numpy(pixels), tokens)[0].softmax(dim=-1).numpy()
    images = model.encode_image(torch.from_numpy(pixels), normalize=True).numpy()
    weights = zero_shot_weights(model, ["star", "circle"], BARE_TEMPLATES)
    scale = float(model.clip.logit_scale.exp())
    np.testing.assert_allclose(
        softmax(zero_shot_logits(images, weights, scale)), expected, atol=1e-4
    )
