import math
from itertools import combinations

import numpy as np
import pytest

from pipelines.samples.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    SHAPES,
    Scene,
    SceneObject,
    random_scene,
    render,
    scene_rng,
    to_jpeg,
)


def scenes(count=200, **settings):
    return [random_scene(scene_rng(3, number), **settings) for number in range(count)]


def test_there_are_eight_shapes_colours_and_held_out_pairs():
    assert (len(SHAPES), len(COLOURS), len(HELD_OUT_PAIRS)) == (8, 8, 8)
    assert {colour for colour, _ in HELD_OUT_PAIRS} == set(COLOURS)
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    assert not set(COLOURS) & set(BACKGROUNDS)


def test_scene_depends_on_seed_and_number_alone():
    assert random_scene(scene_rng(1, 5)) == random_scene(scene_rng(1, 5))
    assert random_scene(scene_rng(1, 5)) != random_scene(scene_rng(2, 5))


def test_scenes_have_one_to_three_objects_inside_the_picture():
    counts = {len(scene.objects) for scene in scenes()}
    assert counts == {1, 2, 3}
    for scene in scenes():
        for item in scene.objects:
            assert item.diameter / 2 <= item.x <= 1 - item.diameter / 2


def test_most_scenes_have_one_object():
    share = np.mean([len(scene.objects) == 1 for scene in scenes(1000)])
    assert 0.64 < share < 0.76


def test_one_object_on_request():
    assert {len(scene.objects) for scene in scenes(one_object=True)} == {1}
    assert {len(scene.objects) for scene in scenes(pairs="unseen")} == {1}


def test_objects_do_not_overlap():
    for scene in scenes():
        for first, second in combinations(scene.objects, 2):
            gap = math.hypot(first.x - second.x, first.y - second.y)
            assert gap >= (first.diameter + second.diameter) / 2


def test_objects_are_nearly_upright():
    tilts = [item.tilt for scene in scenes() for item in scene.objects]
    assert max(map(abs, tilts)) <= 0.25 < max(tilts) - min(tilts)


@pytest.mark.parametrize("one", [True, False])
def test_all_pairs_and_backgrounds_appear(one):
    drawn = scenes(1500, one_object=one)
    assert len({(o.colour, o.shape) for scene in drawn for o in scene.objects}) == 64
    assert {scene.background for scene in drawn} == set(BACKGROUNDS)


def test_colours_stand_apart_from_each_other_and_from_every_background():
    colours = np.array(list(COLOURS.values()), float)
    others = np.array([*COLOURS.values(), *BACKGROUNDS.values()], float)
    distances = np.linalg.norm(colours[:, None] - others, axis=-1)
    assert distances[distances > 0].min() > 60  # over eight times the variation of one channel


@pytest.mark.parametrize("size", [16, 64, 129])
def test_picture_is_a_little_larger_than_asked_at_most(size):
    for number, scene in enumerate(scenes(30)):
        image = render(scene, scene_rng(3, number, 1), size)
        assert image.mode == "RGB"
        assert size <= min(image.size) and max(image.size) <= size + size // 8


def test_object_at_the_edge_stays_inside_the_central_square():
    item = SceneObject("square", "red", 0.5, 0.25, 0.25, 0.0)
    for number in range(30):
        image = render(Scene("black", (item,)), scene_rng(1, number), 64)
        left, top = (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
        outside = np.asarray(image)[: top or None, : left or None, 0]
        assert (left, top) == (0, 0) or outside.mean() < 90


def test_jpeg_quality_varies():
    image = render(scenes(1)[0], scene_rng(3, 0, 1), 64)
    assert len({len(to_jpeg(image, np.random.default_rng(seed))) for seed in range(10)}) > 3


def test_sizes_go_from_small_to_picture_filling():
    diameters = [scene.objects[0].diameter for scene in scenes(one_object=True)]
    assert min(diameters) < 0.32 and max(diameters) > 0.85


@pytest.mark.parametrize(("pairs", "held_out"), [("seen", False), ("unseen", True)])
def test_pairs_are_held_out_on_request(pairs, held_out):
    for scene in scenes(pairs=pairs):
        assert all(((o.colour, o.shape) in HELD_OUT_PAIRS) == held_out for o in scene.objects)


def test_picture_shows_the_objects_colour_in_its_middle():
    item = SceneObject("square", "red", 0.8, 0.5, 0.5, 0.0)
    pixels = np.asarray(render(Scene("white", (item,)), np.random.default_rng(0), 64))
    red, green, blue = pixels[28:36, 28:36].reshape(-1, 3).mean(axis=0)
    assert red > 150 > 90 > max(green, blue)
    assert pixels[2, 2].min() > 150


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn_differently(shape):
    def draw(name):
        item = SceneObject(name, "red", 0.8, 0.5, 0.5, 0.0)
        return np.asarray(render(Scene("white", (item,)), np.random.default_rng(0), 64), float)

    others = [draw(other) for other in SHAPES if other != shape]
    if len({draw(shape).shape, *(o.shape for o in others)}) == 1:
        assert min(np.abs(draw(shape) - other).mean() for other in others) > 3


def test_same_random_state_gives_the_same_bytes():
    scene = scenes(1)[0]
    first, again = (to_jpeg(render(scene, r, 64), r) for r in (scene_rng(0, 0), scene_rng(0, 0)))
    assert first == again
