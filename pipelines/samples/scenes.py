"""Draws scenes: coloured shapes on a background, with the noise of a photograph.

A scene depends on its seed and number alone, so any of them can be drawn again, in any order and in
any process.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COLOURS = {
    "red": (214, 38, 38),
    "green": (42, 166, 62),
    "blue": (44, 84, 220),
    "yellow": (244, 220, 48),
    "purple": (132, 46, 172),
    "orange": (245, 134, 24),
    "pink": (248, 150, 198),
    "cyan": (52, 206, 222),
}
BACKGROUNDS = {
    "white": (242, 242, 242),
    "black": (18, 18, 18),
    "gray": (128, 128, 128),
    "brown": (104, 66, 40),
    "beige": (222, 205, 170),
    "navy": (20, 28, 82),
    "olive": (112, 112, 44),
    "teal": (12, 98, 98),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "crescent")
# Kept out of training on request, so that a model's grasp of new combinations can be measured.
HELD_OUT_PAIRS = frozenset(zip(COLOURS, SHAPES, strict=True))
PAIR_CHOICES = ("all", "seen", "unseen")

SUPERSAMPLING = 4
MAX_TILT = 0.25  # radians: a square tilted freely would be a diamond
ONE_OBJECT_SHARE = 0.7
SINGLE_DIAMETERS = (0.28, 0.90)  # of the central square's side
GROUP_DIAMETERS = (0.28, 0.42)
THREE_SHARE = 0.33  # of the scenes with more than one object


@dataclass(frozen=True)
class SceneObject:
    """One shape. `diameter`, `x` and `y` are fractions of the side of the central square."""

    shape: str
    colour: str
    diameter: float
    x: float
    y: float
    tilt: float


@dataclass(frozen=True)
class Scene:
    """What an image shows; captions are written from it and judged against it."""

    background: str
    objects: tuple[SceneObject, ...]


def scene_rng(seed: int, number: int, purpose: int = 0) -> np.random.Generator:
    """Returns the generator of one scene; each `purpose` has a stream of its own."""
    return np.random.default_rng([seed, number, purpose])


def random_scene(rng: np.random.Generator, pairs: str = "all", one_object: bool = False) -> Scene:
    """Draws a scene.

    Args:
        pairs: which colour-shape pairs may appear: `all`, `seen` (without the held-out ones) or
            `unseen` (the held-out ones only, one object).
        one_object: whether there is never more than one object.
    """
    background = _choice(rng, tuple(BACKGROUNDS))
    if pairs == "unseen" or one_object or rng.random() < ONE_OBJECT_SHARE:
        diameters = [rng.uniform(*SINGLE_DIAMETERS)]
    else:
        count = 3 if rng.random() < THREE_SHARE else 2
        diameters = list(rng.uniform(*GROUP_DIAMETERS, size=count))
    return Scene(background, _place(rng, diameters, pairs))


def _place(rng: np.random.Generator, diameters: list[float], pairs: str) -> tuple[SceneObject, ...]:
    """Puts objects side by side; a crowded try is begun again."""
    while True:
        placed: list[SceneObject] = []
        for diameter in diameters:
            margin = diameter / 2
            x, y = rng.uniform(margin, 1 - margin, size=2)
            if any(math.hypot(x - o.x, y - o.y) < (diameter + o.diameter) / 2 for o in placed):
                break
            colour, shape = _pair(rng, pairs)
            placed.append(
                SceneObject(shape, colour, diameter, x, y, rng.uniform(-MAX_TILT, MAX_TILT))
            )
        if len(placed) == len(diameters):
            return tuple(placed)


def _pair(rng: np.random.Generator, pairs: str) -> tuple[str, str]:
    while True:
        pair = _choice(rng, tuple(COLOURS)), _choice(rng, SHAPES)
        if pairs == "all" or (pair in HELD_OUT_PAIRS) == (pairs == "unseen"):
            return pair


def render(scene: Scene, rng: np.random.Generator, size: int) -> Image.Image:
    """Draws a scene with uneven light, blur and noise.

    Args:
        size: about the shorter side in pixels; width and height vary a little above it, and all
            objects stay inside the central square.

    Returns:
        An RGB image.
    """
    width, height = size + rng.integers(0, size // 8 + 1, size=2) * (rng.random(2) < 0.5)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = _jitter(rng, BACKGROUNDS[scene.background])
    side = min(width, height)
    offset = np.array([(width - side) / 2, (height - side) / 2])
    for item in scene.objects:
        _paint(canvas, item, _jitter(rng, COLOURS[item.colour]), side, offset)
    canvas *= _light(rng, height, width)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.012) * size))
    noisy = np.asarray(image, np.float32) + _noise(rng, (height, width))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def to_jpeg(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Encodes an image at a random quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(70, 96)))
    return buffer.getvalue()


def _paint(
    canvas: np.ndarray, item: SceneObject, colour: np.ndarray, side: int, offset: np.ndarray
) -> None:
    """Blends one object into [height, width, 3], its edges smoothed by drawing them larger."""
    centre = offset + side * np.array([item.x, item.y])
    radius = side * item.diameter / 2
    left, top = np.maximum(np.floor(centre - radius).astype(int) - 1, 0)
    right, bottom = np.ceil(centre + radius).astype(int) + 1
    height, width = canvas[top:bottom, left:right].shape[:2]
    mask = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(mask)
    for outline, fill in _outlines(item.shape):
        turned = _turn(outline, item.tilt) * radius + centre - (left, top)
        draw.polygon([tuple(point) for point in turned * SUPERSAMPLING], fill=fill)
    alpha = np.asarray(mask.reduce(SUPERSAMPLING), np.float32)[..., None] / 255
    part = canvas[top:bottom, left:right]
    part += alpha * (colour - part)


def _outlines(shape: str) -> list[tuple[np.ndarray, int]]:
    """Polygons [points, 2] inside the unit circle, y down, each with its value in the mask."""
    if shape == "circle":
        return [(_circle(), 255)]
    if shape == "ring":
        return [(_circle(), 255), (_circle(0.56), 0)]
    if shape == "crescent":
        return [(_circle(), 255), (_circle(0.86) + (0.46, 0), 0)]
    return [(_POLYGONS[shape], 255)]


def _circle(radius: float = 1.0) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], axis=1) / 17


def _cross(arm: float = 0.32) -> np.ndarray:
    corner = [(arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1)]
    return np.array(corner + [(-x, -y) for x, y in corner])


_POLYGONS = {
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": np.array([(0, -0.95), (0.95, 0.75), (-0.95, 0.75)]),
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _jitter(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    return np.array(colour, np.float32) + rng.normal(0, 7, size=3)


def _light(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth gradient of brightness across the image, [height, width, 1]."""
    slope_x, slope_y = rng.uniform(-0.16, 0.16, size=2)
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    return (1 + slope_x * x + slope_y * y).astype(np.float32)[..., None]


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    strength = rng.uniform(1, 9)
    return rng.standard_normal((*size, 3), dtype=np.float32) * strength


def _choice(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]
