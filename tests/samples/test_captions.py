import re

import numpy as np
import pytest

from pipelines.samples.captions import Meaning, Mention, is_true, swap_word, write_caption
from pipelines.samples.scenes import (
    COLOURS,
    HELD_OUT_PAIRS,
    SHAPES,
    Scene,
    SceneObject,
    random_scene,
    scene_rng,
)


def item(shape="circle", colour="red", diameter=0.7):
    return SceneObject(shape, colour, diameter, 0.5, 0.5, 0.0)


def captions(count=300, **settings):
    for number in range(count):
        rng = scene_rng(5, number)
        scene = random_scene(rng, **settings)
        yield scene, write_caption(scene, rng)


def test_written_captions_are_true():
    assert all(is_true(caption.meaning, scene) for scene, caption in captions())


def test_captions_are_grammatical_about_articles():
    for _, caption in captions():
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  ", caption.text), caption.text


def test_wording_varies():
    openings = {caption.text.split(" a")[0] for _, caption in captions()}
    assert len(openings) >= 8


def test_some_captions_leave_colour_or_shape_out():
    mentions = [c.meaning.mentions[0] for s, c in captions(600, one_object=True)]
    without_colour = np.mean([mention.colour is None for mention in mentions])
    without_shape = np.mean([mention.shape is None for mention in mentions])
    assert 0.2 < without_colour < 0.4
    assert 0.05 < without_shape < 0.15


@pytest.mark.parametrize(
    ("mention", "expected"),
    [
        (Mention("circle", "red"), True),
        (Mention("circle", None), True),
        (Mention(None, "red", "large"), True),
        (Mention("circle", "blue"), False),
        (Mention("square", "red"), False),
        (Mention("circle", "red", "small"), False),
    ],
)
def test_truth_of_a_mention(mention, expected):
    assert is_true(Meaning((mention,)), Scene("white", (item(),))) is expected


@pytest.mark.parametrize(
    ("size", "diameter", "expected"),
    [
        ("large", 0.9, True), ("large", 0.49, True), ("large", 0.3, False),
        ("small", 0.28, True), ("small", 0.49, True), ("small", 0.7, False),
    ],
)  # fmt: skip
def test_sizes_between_large_and_small_pass_for_both(size, diameter, expected):
    scene = Scene("white", (item(diameter=diameter),))
    assert is_true(Meaning((Mention("circle", None, size),)), scene) is expected


def test_sizes_between_large_and_small_are_not_named():
    for scene, caption in captions(600, one_object=True):
        if 0.40 < scene.objects[0].diameter < 0.58:
            assert not re.search("large|big|small|little", caption.text)


def test_order_of_mentions_does_not_matter():
    scene = Scene("white", (item(), item("star", "blue")))
    for mentions in ((Mention("star", "blue"), Mention("circle", "red")), (Mention(None, "blue"),)):
        assert is_true(Meaning(mentions), scene)
    crossed = Meaning((Mention("star", "red"), Mention("circle", "blue")))
    assert not is_true(crossed, scene)


def test_more_mentions_than_objects_are_false():
    assert not is_true(Meaning((Mention(None, None),) * 2), Scene("white", (item(),)))


def test_captions_of_groups_name_every_object():
    groups = [(scene, caption) for scene, caption in captions() if len(scene.objects) > 1]
    for scene, caption in groups:
        assert len(caption.meaning.mentions) == len(scene.objects)
        assert caption.meaning.count in (None, len(scene.objects))
    assert groups


def test_caption_says_what_it_means():
    for _, caption in captions():
        named = set(re.findall(r"\w+", caption.text))
        meant = {word for m in caption.meaning.mentions for word in (m.shape, m.colour) if word}
        assert named & {*COLOURS, *SHAPES} == meant
        assert caption.meaning.background is None or caption.meaning.background in named


def test_same_random_state_gives_the_same_caption():
    scene = random_scene(scene_rng(5, 0))
    first, again = (write_caption(scene, scene_rng(5, 0, 1)) for _ in range(2))
    assert first == again


def test_two_mentions_need_two_objects():
    meaning = Meaning((Mention("circle", "red"), Mention("circle", None)))
    assert not is_true(meaning, Scene("white", (item(), item("star"))))
    assert is_true(meaning, Scene("white", (item(), item("circle", "blue"))))


def test_background_and_count_are_claims_too():
    scene = Scene("white", (item(), item("star")))
    assert not is_true(Meaning((Mention("star", None),), background="black"), scene)
    assert not is_true(Meaning((Mention("star", None),), count=3), scene)


@pytest.mark.parametrize("kind", ["colour", "shape"])
def test_word_swap_changes_one_word_and_the_truth(kind):
    words = set(COLOURS) if kind == "colour" else set(SHAPES)
    for number in range(200):
        rng = scene_rng(6, number)
        scene = random_scene(rng)
        true, false = swap_word(scene, rng, kind)
        assert is_true(true.meaning, scene) and not is_true(false.meaning, scene)
        before, after = (
            re.sub(r"\ban\b", "a", c.text).replace(",", "").split() for c in (true, false)
        )
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1 and set(changed[0]) <= words


def test_word_swap_names_no_held_out_pair_on_request():
    for number in range(200):
        rng = scene_rng(7, number)
        scene = random_scene(rng, "seen")
        _, false = swap_word(scene, rng, "shape", "seen")
        assert all((m.colour, m.shape) not in HELD_OUT_PAIRS for m in false.meaning.mentions)
