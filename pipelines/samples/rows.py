"""Makes the rows of a sample dataset: images, captions, and the truth about both."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.samples.captions import Caption, is_true, swap_word, write_caption
from pipelines.samples.scenes import (
    HELD_OUT_PAIRS,
    PAIR_CHOICES,
    Scene,
    random_scene,
    render,
    scene_rng,
    to_jpeg,
)

DAMAGES = ("truncated", "html", "empty", "missing", "noise")
WORD_SWAPS = ("colour", "shape", "any")
_HTML = b"<!DOCTYPE html><title>404 Not Found</title><p>The picture has moved.</p>\n"
# Streams of a scene's random numbers, so that one decision does not move another.
_SCENE, _PICTURE, _FATE, _OTHER = range(4)


@dataclass(frozen=True)
class SampleConfig:
    """What a sample dataset holds.

    Attributes:
        rows: image-text pairs.
        swap_rate: share of rows with another image's caption, which is false of theirs.
        word_swap_rate: share of rows whose caption has one word changed, so that it is false.
        word_swap: which word: `colour`, `shape` or `any` of the two.
        broken_rate: share of rows whose image is damaged or missing.
        image_size: about the shorter side of an image, pixels.
        colour_shape_pairs: `all`, `seen` (without the held-out pairs) or `unseen` (those only).
        one_object: whether every scene has a single object.
    """

    rows: int = 1000
    seed: int = 0
    swap_rate: float = 0.0
    word_swap_rate: float = 0.0
    word_swap: str = "any"
    broken_rate: float = 0.0
    image_size: int = 112
    colour_shape_pairs: str = "all"
    one_object: bool = False

    def __post_init__(self) -> None:
        for name in ("swap_rate", "word_swap_rate", "broken_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1, got {getattr(self, name)}")
        if self.swap_rate + self.word_swap_rate > 1:
            raise ValueError(
                "`swap_rate` and `word_swap_rate` must not exceed 1 together, "
                f"got {self.swap_rate} and {self.word_swap_rate}"
            )
        for name in ("rows", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if self.image_size < 16:
            raise ValueError(f"`image_size` must be at least 16 pixels, got {self.image_size}")
        if self.word_swap not in WORD_SWAPS or self.colour_shape_pairs not in PAIR_CHOICES:
            raise ValueError(
                f"`word_swap` must be one of {WORD_SWAPS} and `colour_shape_pairs` one of "
                f"{PAIR_CHOICES}, got {self.word_swap!r} and {self.colour_shape_pairs!r}"
            )


@dataclass(frozen=True)
class Truth:
    """What is so about a row, whatever its caption says.

    Attributes:
        swap: `none`, `caption`, `colour` or `shape`.
        damage: `none` or one of `DAMAGES`.
        true_text: a caption that is true of the image.
        colour, shape: of the scene's first object.
        objects: how many there are.
        pair_held_out: whether the first object's colour and shape are a held-out pair.
    """

    uid: str
    swap: str
    damage: str
    true_text: str
    background: str
    colour: str
    shape: str
    objects: int
    pair_held_out: bool

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SampleRow:
    """One row: its encoded image (None when missing), its caption, and the truth about it."""

    uid: str
    image: bytes | None
    text: str
    truth: Truth


def make_row(config: SampleConfig, number: int) -> SampleRow:
    """Makes row `number`; it depends on the config and that number alone."""
    scene = _scene(config, number)
    fate = scene_rng(config.seed, number, _FATE)
    swap_draw, break_draw = fate.random(2)
    swap, caption, true_text = _caption(config, scene, number, fate, swap_draw)
    damage = DAMAGES[fate.integers(len(DAMAGES))] if break_draw < config.broken_rate else "none"
    picture_rng = scene_rng(config.seed, number, _PICTURE)
    jpeg = to_jpeg(render(scene, picture_rng, config.image_size), picture_rng)
    uid = hashlib.sha256(f"clip-beam sample {config.seed} {number}".encode()).hexdigest()[:32]
    first = scene.objects[0]
    truth = Truth(
        uid=uid,
        swap=swap,
        damage=damage,
        true_text=true_text,
        background=scene.background,
        colour=first.colour,
        shape=first.shape,
        objects=len(scene.objects),
        pair_held_out=(first.colour, first.shape) in HELD_OUT_PAIRS,
    )
    return SampleRow(uid, _damaged(jpeg, damage, fate), caption.text, truth)


def _scene(config: SampleConfig, number: int) -> Scene:
    rng = scene_rng(config.seed, number, _SCENE)
    return random_scene(rng, config.colour_shape_pairs, config.one_object)


def _caption(
    config: SampleConfig, scene: Scene, number: int, rng: np.random.Generator, draw: float
) -> tuple[str, Caption, str]:
    """Returns the kind of swap, the row's caption, and a true one."""
    if draw < config.swap_rate:
        return "caption", _false_caption(config, scene, number), write_caption(scene, rng).text
    if draw < config.swap_rate + config.word_swap_rate:
        kind = config.word_swap
        if kind == "any":
            kind = "colour" if rng.random() < 0.5 else "shape"
        true, false = swap_word(scene, rng, kind, config.colour_shape_pairs)
        return kind, false, true.text
    caption = write_caption(scene, rng)
    return "none", caption, caption.text


def _false_caption(config: SampleConfig, scene: Scene, number: int) -> Caption:
    """Takes the caption of other scenes until one is false of this one."""
    rng = scene_rng(config.seed, number, _OTHER)
    while True:
        other = random_scene(rng, config.colour_shape_pairs, config.one_object)
        caption = write_caption(other, rng)
        if not is_true(caption.meaning, scene):
            return caption


def _damaged(jpeg: bytes, damage: str, rng: np.random.Generator) -> bytes | None:
    if damage == "none":
        return jpeg
    if damage == "truncated":
        return jpeg[: int(len(jpeg) * rng.uniform(0.3, 0.9))]
    if damage == "noise":
        return rng.bytes(len(jpeg))
    return {"html": _HTML, "empty": b"", "missing": None}[damage]
