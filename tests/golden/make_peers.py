"""Makes the golden numbers of open_clip and transformers again.

    pip install open_clip_torch==3.3.0 transformers==5.24.0 torchvision
    python tests/golden/make_peers.py

writes `peers.npz`. Made with Pillow 12.3.0 and torch 2.13.0:

- `open_clip MODE KERNEL FILL/IMAGE`: pixels [24, 24, 3] uint8 that `open_clip.transform` hands to
  its `ToTensor`, for the images of `images/`.
- `hugging_face/IMAGE`: the pixels [3, 24, 24] of `CLIPImageProcessorPil` before it scales them.
- `open_clip/image`, `open_clip/text`, and the same of `transformers`: unit embeddings of
  `PHOTO` and of `CAPTIONS` by the model directories that `peer_models.py` writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from peer_models import CAPTIONS, CASES, PHOTO, SIZE, write_hugging_face, write_open_clip

HERE = Path(__file__).parent


def main() -> None:
    found = dict(_pixels())
    with tempfile.TemporaryDirectory() as folder:
        for library, embed in {
            "open_clip": _by_open_clip,
            "transformers": _by_transformers,
        }.items():
            directory = Path(folder) / library
            directory.mkdir()
            image, text = embed(directory)
            found |= {f"{library}/image": _unit(image), f"{library}/text": _unit(text)}
    np.savez_compressed(HERE / "peers.npz", **found)


def _pixels() -> Iterator[tuple[str, np.ndarray]]:
    square = {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=square, do_rescale=False, do_normalize=False
    )
    for path in sorted((HERE / "images").iterdir()):
        if path.name.startswith("bad_"):
            continue
        for mode, kernel, fill in CASES:
            transform = image_transform(
                SIZE, False, resize_mode=mode, interpolation=kernel, fill_color=fill
            )
            transform.transforms = transform.transforms[:-2]  # without ToTensor and Normalize
            name = f"open_clip {mode} {kernel} {fill}/{path.name}"
            with suppress(ValueError):  # a side of an image of 2000 x 3 pixels rounds to 0
                yield name, np.asarray(transform(Image.open(path)))
        found = processor(Image.open(path))["pixel_values"][0]
        yield f"hugging_face/{path.name}", np.asarray(found)


@torch.inference_mode()
def _by_open_clip(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    write_open_clip(directory)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    tokens = open_clip.get_tokenizer(f"local-dir:{directory}")(list(CAPTIONS))
    model.eval()
    pixels = preprocess(Image.open(HERE / "images" / PHOTO))[None]
    return model.encode_image(pixels), model.encode_text(tokens)


@torch.inference_mode()
def _by_transformers(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    write_hugging_face(directory)
    model = CLIPModel.from_pretrained(directory).eval()
    processor = CLIPImageProcessorPil.from_pretrained(directory)
    pixels = processor(Image.open(HERE / "images" / PHOTO), return_tensors="pt")["pixel_values"]
    tokens = open_clip.SimpleTokenizer()(list(CAPTIONS))
    image = model.get_image_features(pixels).pooler_output
    return image, model.get_text_features(tokens).pooler_output


def _unit(features: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(features, dim=-1).numpy().astype(np.float32)


if __name__ == "__main__":
    main()
