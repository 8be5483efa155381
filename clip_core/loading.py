"""`clip_core.load`: a model ready to embed, from a name, a file or a directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clip_core.checkpoints import vocabulary
from clip_core.checkpoints.descriptions.tokenizer import check_tokenizer
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.locate import local_model
from clip_core.checkpoints.reading import Checkpoint, read_checkpoint
from clip_core.checkpoints.weights import build
from clip_core.config import ClipConfig, VitConfig
from clip_core.inputs import check_image, check_pixels, check_tokens
from clip_core.model import Attention, Clip, VisionTransformer
from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from clip_core.variants import VARIANTS

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ClipModel:
    """A loaded model with the preprocessing and the tokenizer that belong to it.

    Attributes:
        clip: the module, in evaluation mode, on its device.
        fingerprint: what decides the values of its embeddings, as plain strings.
    """

    clip: Clip
    preprocessing: Preprocess
    tokenizer: Tokenizer
    fingerprint: dict[str, str]

    @property
    def config(self) -> ClipConfig:
        """The architecture."""
        return self.clip.config

    def preprocess(self, image: Image.Image) -> Tensor:
        """Returns the pixels [3, size, size] float32 of an image, standardised.

        Raises:
            TypeError: if it is no image of Pillow's.
        """
        check_image(image)
        return torch.from_numpy(self.preprocessing.normalize(self.preprocessing.to_pixels(image)))

    def tokenize(self, texts: str | Sequence[str], *, truncate: bool = False) -> Tensor:
        """Returns token rows [texts, context_length] int64; see `Tokenizer.tokenize`."""
        return torch.from_numpy(self.tokenizer.tokenize(texts, truncate=truncate))

    # Without gradients, and not in inference mode: its tensors can neither be changed in place
    # afterwards nor be trained on.
    @torch.no_grad()
    def encode_image(self, pixels: Tensor, *, normalize: bool = False) -> Tensor:
        """Embeds [batch, 3, size, size] pixels; see `Clip.encode_image`.

        Raises:
            TypeError, ValueError: if it is no such tensor.
        """
        check_pixels(pixels, self.preprocessing.size)
        return self.clip.encode_image(pixels, normalize)

    @torch.no_grad()
    def encode_text(self, tokens: Tensor, *, normalize: bool = False) -> Tensor:
        """Embeds [batch, context_length] token rows; see `Clip.encode_text`.

        Raises:
            TypeError, ValueError: if it is no such tensor.
        """
        check_tokens(tokens, self.tokenizer.context_length)
        return self.clip.encode_text(tokens, normalize)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits_per_image [images, texts] and logits_per_text, its transpose.

        Raises:
            TypeError, ValueError: if they are no tensors of pixels and token rows.
        """
        check_pixels(pixels, self.preprocessing.size)
        check_tokens(tokens, self.tokenizer.context_length)
        found: tuple[Tensor, Tensor] = self.clip(pixels, tokens)
        return found

    def to(self, target: str | torch.device | torch.dtype) -> ClipModel:
        """Moves the model to a device, or rounds it to a precision; returns the same model.

        Raises:
            ValueError: if there is no such precision, or the weights are rounded already.
        """
        if isinstance(target, torch.dtype):
            self._round(target)
        else:
            _place(self.clip, target)
        return self

    def half(self) -> ClipModel:
        """Rounds the model to fp16, as `load(..., precision="fp16")`; returns the same model."""
        return self.to(torch.float16)

    def float(self) -> ClipModel:
        """Returns the same model, if it is in fp32.

        Raises:
            ValueError: if its weights are rounded already.
        """
        return self.to(torch.float32)

    def __getattr__(self, name: str) -> Any:
        hint = f"; the module is `.clip`, as in `model.clip.{name}`" if hasattr(Clip, name) else ""
        raise AttributeError(f"`ClipModel` has no attribute {name!r}{hint}")

    def _round(self, dtype: torch.dtype) -> None:
        names = [name for name, known in PRECISIONS.items() if known == dtype]
        if not names:
            raise ValueError(f"a model's precision is one of {', '.join(PRECISIONS)}, got {dtype}")
        now = self.fingerprint["precision"]
        if now not in ("fp32", *names):
            raise ValueError(
                f"expected a model in fp32, got one rounded to {now}; load it again with "
                f"`precision={names[0]!r}`"
            )
        cast_precision(self.clip, dtype)
        self.fingerprint["precision"] = names[0]


def load(
    name: str | PathLike[str],
    device: str | torch.device = "cpu",
    *,
    precision: str = "fp32",
    arch: str | None = None,
    activation: str | None = None,
    vocab: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    image_policy: str = "openai",
) -> ClipModel:
    """Loads a model.

    Args:
        name: one of `available_models()`, or a file or directory on any fsspec filesystem.
        precision: `fp32`, `bf16` or `fp16`, of the matrix products; normalisations stay float32.
            With `fp32` on a GPU, the process no longer rounds convolutions to TF32.
        arch, activation: what a bare state dict does not tell; see `read_checkpoint`.
        vocab: file of the BPE vocabulary, instead of the model's own.
        cache_dir: where published models are kept; see `published.cache_directory`.
        image_policy: `openai`, `rgb_first` or `hugging_face`; see `Preprocess`.

    Raises:
        CheckpointError: if the model cannot be found, read or built; in one sentence.
        VocabularyError: if there is no vocabulary for it, or it is damaged.
        ValueError: if there is no such image policy.
    """
    if precision not in PRECISIONS:
        raise CheckpointError(
            f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}"
        )
    with local_model(name, cache_dir) as path:
        checkpoint = read_checkpoint(path, arch=arch, activation=activation)
        tokenizer = _tokenizer(path, vocab, checkpoint)
        clip = build(checkpoint)
    config = checkpoint.config
    _place(cast_precision(clip, PRECISIONS[precision]), device)
    size = config.vision.image_size
    preprocessing = Preprocess(
        size, config.mean, config.std, image_policy, resizing=config.resizing
    )
    fingerprint = {
        "checkpoint_sha256": checkpoint.sha256,
        "architecture": describe(config),
        "activation": config.activation,
        "preprocessing": preprocessing.identity,
        "tokenizer": tokenizer.identity,
        "precision": precision,
    }
    return ClipModel(clip, preprocessing, tokenizer, fingerprint)


def _place(clip: Clip, device: str | torch.device) -> None:
    """Moves a model.

    Raises:
        CheckpointError: if there is no such device.
    """
    try:
        clip.to(device)
    except (RuntimeError, AssertionError) as error:  # what torch raises where there is none
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(f"device {device!s} cannot be used: {reason}") from error
    if clip.dtype == torch.float32 and clip.logit_scale.is_cuda:
        torch.backends.cudnn.allow_tf32 = False  # torch's default: ten bits of mantissa


def describe(config: ClipConfig) -> str:
    """Returns the published name of an architecture, or its sizes."""
    for name, variant in VARIANTS.items():
        sizes = (variant.embed_dim, variant.vision, variant.text)
        if (config.embed_dim, config.vision, config.text) == sizes:
            return name
    vision, text = config.vision, config.text
    kind = f"ViT /{vision.patch_size}" if isinstance(vision, VitConfig) else "ResNet"
    return (
        f"{kind} {vision.image_size}px width {vision.width} layers {vision.layers} heads "
        f"{vision.heads}, text width {text.width} layers {text.layers} heads {text.heads}, "
        f"dim {config.embed_dim}"
    )


def cast_precision(clip: Clip, dtype: torch.dtype) -> Clip:
    """Casts matrices and convolutions; normalisations, embeddings and temperature stay float32."""
    for module in clip.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | Attention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    clip.text_projection.data = clip.text_projection.data.to(dtype)
    if isinstance(clip.visual, VisionTransformer):
        clip.visual.proj.data = clip.visual.proj.data.to(dtype)
    return clip


def _tokenizer(path: Path, vocab: str | PathLike[str] | None, checkpoint: Checkpoint) -> Tokenizer:
    text = checkpoint.config.text
    merges = _merges(path, vocab, checkpoint.directory, text.vocab_size)
    tokenizer = Tokenizer(merges, text.context_length)
    if tokenizer.vocab_size != text.vocab_size:
        raise CheckpointError(
            f"the model has {text.vocab_size} token ids, its vocabulary "
            f"{tokenizer.vocab_size}; name the right one with `vocab`"
        )
    if checkpoint.directory is not None and vocab is None:
        check_tokenizer(checkpoint.directory, tokenizer)
    return tokenizer


def _merges(
    path: Path, vocab: str | PathLike[str] | None, directory: Path | None, vocab_size: int
) -> vocabulary.Merges:
    if vocab is not None:
        with local_model(vocab) as file:
            if file.is_dir():
                raise vocabulary.VocabularyError(
                    f"expected `vocab` to name a file, got the directory {vocab}; name one like "
                    + ", ".join(vocabulary.FILE_NAMES)
                )
            return vocabulary.read_merges(file.name, file.read_bytes())
    folder = directory or path.parent
    for name in vocabulary.FILE_NAMES if directory else (vocabulary.OPENAI_FILE,):
        if (folder / name).exists():
            return vocabulary.read_merges(name, (folder / name).read_bytes())
    if vocab_size == vocabulary.OPENAI_VOCAB_SIZE:
        return vocabulary.find_openai_merges()
    raise vocabulary.VocabularyError(
        f"expected a BPE vocabulary ({', '.join(vocabulary.FILE_NAMES)}) beside the model, got "
        "none; name a file with `vocab`"
    )
