"""Writes captions of scenes, and decides whether a caption is true of a scene.

Every caption is kept together with its meaning, so truth is looked up and never parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from pipelines.samples.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, SceneObject

# Said from `SAID` on; true up to `TRUE`: what lies between is neither clearly large nor small.
LARGE_SAID, LARGE_TRUE = 0.60, 0.48
SMALL_SAID, SMALL_TRUE = 0.38, 0.50

# If every caption named the colour, colour alone would tell most pictures of a batch apart and a
# model in training would never need the shape.
NAMES_BOTH, NAMES_SHAPE_ONLY = 0.6, 0.3

_OPENINGS = (
    "{}", "{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}",
    "there is {}", "this is {}", "the picture shows {}", "a snapshot of {}", "here we see {}",
)  # fmt: skip
_SETTINGS = (
    "on {} background", "against {} background", "with {} background", "in front of {} backdrop",
    "over {} backdrop",
)  # fmt: skip
_COUNTED = {2: ("two shapes: {}", "two objects, {}"), 3: ("three shapes: {}", "three objects, {}")}


@dataclass(frozen=True)
class Mention:
    """One object as a caption speaks of it; None where the caption leaves a word out."""

    shape: str | None
    colour: str | None
    size: str | None = None


@dataclass(frozen=True)
class Meaning:
    """What a caption claims: these objects, perhaps their number, perhaps the background."""

    mentions: tuple[Mention, ...]
    background: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims."""

    text: str
    meaning: Meaning


def write_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Words a true caption of `scene`."""
    meaning = _single(scene, rng) if len(scene.objects) == 1 else _group(scene, rng)
    return Caption(word(meaning, rng), meaning)


def is_true(meaning: Meaning, scene: Scene) -> bool:
    """Tells whether a scene could be described so, in doubt yes."""
    if meaning.background not in (None, scene.background):
        return False
    if meaning.count not in (None, len(scene.objects)):
        return False
    return any(
        all(map(_fits, meaning.mentions, objects))
        for objects in permutations(scene.objects, len(meaning.mentions))
    )


def swap_word(
    scene: Scene, rng: np.random.Generator, kind: str, pairs: str = "all"
) -> tuple[Caption, Caption]:
    """Words a true caption and the same with one word changed, so that it is false.

    Args:
        kind: `colour` or `shape`.
        pairs: as in `random_scene`: with `seen`, the changed caption names no held-out pair.

    Returns:
        The true caption and the false one, worded alike.
    """
    while True:
        start = rng.bit_generator.state
        true = write_caption(scene, rng)
        choices = [
            changed
            for changed in _changes(true.meaning, kind)
            if not is_true(changed, scene) and (pairs != "seen" or not _names_held_out(changed))
        ]
        if not choices:
            continue  # this wording leaves the word out; another will not
        meaning = choices[rng.integers(len(choices))]
        wording = np.random.default_rng()
        wording.bit_generator.state = start
        _skip_meaning(scene, wording)
        return true, Caption(word(meaning, wording), meaning)


def word(meaning: Meaning, rng: np.random.Generator) -> str:
    """Puts a meaning into words; equal states of `rng` give equal wording."""
    names = [_phrase(mention, rng) for mention in meaning.mentions]
    text = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    if meaning.count is not None:
        text = _pick(rng, _COUNTED[meaning.count]).format(text)
    else:
        text = _pick(rng, _OPENINGS).format(text)
    if meaning.background is not None:
        text += " " + _pick(rng, _SETTINGS).format(_with_article(meaning.background))
    return text


def _single(scene: Scene, rng: np.random.Generator) -> Meaning:
    item = scene.objects[0]
    draw, tell_size, tell_background = rng.random(3)
    says_shape, says_colour = _says(draw)
    mention = Mention(
        item.shape if says_shape else None,
        item.colour if says_colour else None,
        # A caption that names the shape alone says more about the rest.
        _size_word(item) if tell_size < (0.4 if says_colour else 0.75) else None,
    )
    tells = tell_background < (0.5 if says_shape and says_colour else 0.75)
    return Meaning((mention,), scene.background if tells else None)


def _group(scene: Scene, rng: np.random.Generator) -> Meaning:
    draw, tell_count, tell_background = rng.random(3)
    says_shape, says_colour = _says(draw)
    mentions = tuple(
        Mention(
            scene.objects[i].shape if says_shape else None,
            scene.objects[i].colour if says_colour else None,
        )
        for i in rng.permutation(len(scene.objects))
    )
    return Meaning(
        mentions,
        scene.background if tell_background < 0.3 else None,
        len(mentions) if tell_count < 0.3 else None,
    )


def _says(draw: float) -> tuple[bool, bool]:
    """Decides whether a caption names shapes, and whether it names colours."""
    return (
        draw < NAMES_BOTH + NAMES_SHAPE_ONLY,
        not NAMES_BOTH <= draw < NAMES_BOTH + NAMES_SHAPE_ONLY,
    )


def _skip_meaning(scene: Scene, rng: np.random.Generator) -> None:
    """Draws what a meaning draws, so that `rng` stands where its wording began."""
    _single(scene, rng) if len(scene.objects) == 1 else _group(scene, rng)


def _changes(meaning: Meaning, kind: str) -> Iterator[Meaning]:
    """Yields every meaning that differs in one colour or one shape."""
    words = tuple(COLOURS) if kind == "colour" else SHAPES
    for index, mention in enumerate(meaning.mentions):
        if getattr(mention, kind) is None:
            continue
        for other in words:
            if other != getattr(mention, kind):
                changed = replace(mention, **{kind: other})
                mentions = (*meaning.mentions[:index], changed, *meaning.mentions[index + 1 :])
                yield replace(meaning, mentions=mentions)


def _names_held_out(meaning: Meaning) -> bool:
    return any((mention.colour, mention.shape) in HELD_OUT_PAIRS for mention in meaning.mentions)


def _fits(mention: Mention, item: SceneObject) -> bool:
    return (
        mention.shape in (None, item.shape)
        and mention.colour in (None, item.colour)
        and (mention.size != "large" or item.diameter >= LARGE_TRUE)
        and (mention.size != "small" or item.diameter <= SMALL_TRUE)
    )


def _size_word(item: SceneObject) -> str | None:
    if item.diameter >= LARGE_SAID:
        return "large"
    return "small" if item.diameter <= SMALL_SAID else None


def _phrase(mention: Mention, rng: np.random.Generator) -> str:
    """Spends one draw whatever it says, so that changing a word changes nothing else."""
    size = {"large": ("large", "big"), "small": ("small", "little"), None: ("", "")}[mention.size]
    words = (_pick(rng, size), mention.colour or "", mention.shape or "shape")
    return _with_article(" ".join(word for word in words if word))


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]
