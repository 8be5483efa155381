"""The loops that people write with other libraries: pictures and captions in, similarities out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

Loop = Callable[[], list[torch.Tensor]]
Pairs = list[tuple[bytes, str]]


class PeerMissing(Exception):
    """A peer that is not installed."""


def hugging_face(model: Path, pairs: Pairs, batch: int) -> Loop:
    """Returns transformers' documented loop: processor, then the model, padded to 77."""
    try:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise PeerMissing("not installed; `pip install transformers`") from error
    clip = CLIPModel.from_pretrained(model).eval()
    images, texts = (
        CLIPImageProcessorPil.from_pretrained(model),
        CLIPTokenizer.from_pretrained(model),
    )

    @torch.no_grad()
    def loop() -> list[torch.Tensor]:
        scores = []
        for piece in _pieces(pairs, batch):
            pictures = [Image.open(io.BytesIO(data)) for data, _ in piece]
            inputs = images(pictures, return_tensors="pt")
            captions = [text for _, text in piece]
            inputs |= texts(captions, padding="max_length", truncation=True, max_length=77,
                            return_tensors="pt")  # fmt: skip
            found = clip(**inputs)
            scores.append((found.image_embeds * found.text_embeds).sum(dim=-1))
        return scores

    return loop


def open_clip(model: Path, pairs: Pairs, batch: int) -> Loop:
    """Returns open_clip's documented loop."""
    try:
        import open_clip as library
    except (ImportError, RuntimeError) as error:
        raise PeerMissing("not installed; `pip install open_clip_torch`") from error
    clip, _, preprocess = library.create_model_and_transforms(f"local-dir:{model}")
    tokenize = library.get_tokenizer("ViT-B-32")
    clip.eval()

    @torch.no_grad()
    def loop() -> list[torch.Tensor]:
        scores = []
        for piece in _pieces(pairs, batch):
            pixels = torch.stack([preprocess(Image.open(io.BytesIO(data))) for data, _ in piece])
            image = clip.encode_image(pixels, normalize=True)
            text = clip.encode_text(tokenize([text for _, text in piece]), normalize=True)
            scores.append((image * text).sum(dim=-1))
        return scores

    return loop


def _pieces(pairs: Pairs, batch: int) -> list[Pairs]:
    return [pairs[first : first + batch] for first in range(0, len(pairs), batch)]


PEERS = {"Hugging Face": hugging_face, "open_clip": open_clip}
