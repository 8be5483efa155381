"""Makes the golden numbers again that need no original code, and says where the others are from.

    python tests/golden/make.py

writes `features.npz`, the images `drawn_*.png` and their pixels. What the original code made it
leaves as it is: `tokens.json.gz`, and the pixels of all other images.

- `tokens.json.gz`: 2,000 strings (English, markup, mojibake, emoji, scripts, control characters,
  literal special tokens, some far too long), each with its ids: `clip.tokenize(text,
  truncate=True)` of github.com/openai/CLIP, zeros after the end token removed. To make it again,
  install that repository with ftfy 6.3.1, and call it on the strings.
- `images/`: drawings made by a program, in many modes. `pixels/NAME.png` are the pixels of
  `images/NAME`, [224, 224, 3] uint8: what `clip.clip._transform(224)` of that repository hands to
  its `ToTensor`. The images `drawn_*` went through `original_pixels` below instead, which gave
  the same pixels as the original code for 15 images of 8 modes. `bad_*` must be refused.
- `features.npz`: for each model of `formula.py`, what `plain_clip.py` computes of its inputs,
  rounded to float32. How `plain_clip.py` was itself held against the original code is said there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from formula import MODELS, image_inputs, token_inputs, values, weights_of
from plain_clip import clip_outputs

HERE = Path(__file__).parent
SIZE = 224


def main() -> None:
    np.savez_compressed(HERE / "features.npz", **golden_features())
    for name, image in drawings().items():
        image.save(HERE / "images" / name, optimize=True)
        original_pixels(image).save(HERE / "pixels" / f"{name}.png", optimize=True)


def golden_features() -> dict[str, np.ndarray]:
    """Returns, by `MODEL/OUTPUT`, the outputs of `clip_outputs` as float32."""
    tokens = token_inputs()
    return {
        f"{model}/{output}": found.astype(np.float32)
        for model, sizes in MODELS.items()
        for output, found in clip_outputs(weights_of(sizes), image_inputs(sizes), tokens).items()
    }


def original_pixels(image: Image.Image) -> Image.Image:
    """Resizes, crops and converts as torchvision's transforms, which the original calls."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    resized = (SIZE, int(SIZE * long / short))
    image = image.resize(resized if width <= height else resized[::-1], Image.Resampling.BICUBIC)
    left, top = (int(round((side - SIZE) / 2.0)) for side in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE)).convert("RGB")


def drawings() -> dict[str, Image.Image]:
    """Returns images of the modes that the others lack, by file name."""
    return {
        "drawn_rgb.png": Image.fromarray(_drawn("rgb", 66, 91, 3)),
        "drawn_rgba.png": Image.fromarray(_drawn("rgba", 60, 81, 4)),
        "drawn_la.png": Image.fromarray(_drawn("la", 72, 64, 2)),
        "drawn_i16.png": Image.fromarray(_drawn("i16", 70, 50, 1)[..., 0].astype(np.uint16) * 2),
    }


def _drawn(name: str, height: int, width: int, channels: int) -> np.ndarray:
    """Draws squares of 8 under a grain: [height, width, channels] uint8."""
    shape = (-(-height // 8), -(-width // 8), channels)
    squares = values(f"{name} squares", shape).repeat(8, axis=0).repeat(8, axis=1)
    grain = values(f"{name} grain", (height, width, channels))
    return (127 + 110 * squares[:height, :width] + 16 * grain).astype(np.uint8)


if __name__ == "__main__":
    main()
