"""`clip_core.load`: a model ready to embed, from a name, a file or a directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from clip_core import vocabulary
from clip_core.checkpoint import Checkpoint, read_checkpoint
from clip_core.config import ClipConfig, VitConfig
from clip_core.lazy_tensor import CheckpointError, LazyTensors
from clip_core.locate import local_model
from clip_core.model import Attention, Clip, VisionTransformer
from clip_core.preprocess import Preprocess
from clip_core.tokenizer import Tokenizer
from clip_core.variants import VARIANTS

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_OPTIONAL = "num_batches_tracked"  # counts training steps; files of old releases lack it
_NAMED = 3  # weights named in a message, of many


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
        """Returns the pixels [3, size, size] float32 of a picture, standardised."""
        return torch.from_numpy(self.preprocessing.normalize(self.preprocessing.to_pixels(image)))

    def tokenize(self, texts: str | Sequence[str], *, truncate: bool = False) -> Tensor:
        """Returns token rows [texts, context_length] int64; see `Tokenizer.tokenize`."""
        return torch.from_numpy(self.tokenizer.tokenize(texts, truncate=truncate))

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor, *, normalize: bool = False) -> Tensor:
        """Embeds [batch, 3, size, size] pixels; see `Clip.encode_image`."""
        return self.clip.encode_image(pixels, normalize)

    @torch.inference_mode()
    def encode_text(self, tokens: Tensor, *, normalize: bool = False) -> Tensor:
        """Embeds [batch, context_length] token rows; see `Clip.encode_text`."""
        return self.clip.encode_text(tokens, normalize)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits_per_image [images, texts] and logits_per_text, its transpose."""
        return self.clip(pixels, tokens)


def load(
    name: str,
    device: str | torch.device = "cpu",
    *,
    precision: str = "fp32",
    arch: str | None = None,
    activation: str | None = None,
    vocab: str | None = None,
    cache_dir: str | None = None,
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
        image_policy: `openai` or `rgb_first`; see `Preprocess`.

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
        tokenizer = _tokenizer(path, vocab, checkpoint.config)
        clip = _build(checkpoint)
    config = checkpoint.config
    try:
        clip = cast_precision(clip, PRECISIONS[precision]).to(device)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # what torch raises where there is no such device
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(f"device {device!s} cannot be used: {reason}") from error
    if precision == "fp32" and clip.logit_scale.is_cuda:
        torch.backends.cudnn.allow_tf32 = False  # torch's default: ten bits of mantissa
    size = config.vision.image_size
    preprocessing = Preprocess(size, config.mean, config.std, image_policy)
    fingerprint = {
        "checkpoint_sha256": checkpoint.sha256,
        "architecture": describe(config),
        "activation": config.activation,
        "preprocessing": preprocessing.identity,
        "tokenizer": tokenizer.identity,
        "precision": precision,
    }
    return ClipModel(clip, preprocessing, tokenizer, fingerprint)


def describe(config: ClipConfig) -> str:
    """Returns the published name of an architecture, or its sizes."""
    for name, variant in VARIANTS.items():
        if (
            replace(config, activation=variant.activation, mean=variant.mean, std=variant.std)
            == variant
        ):
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


def _build(checkpoint: Checkpoint) -> Clip:
    """Fills a model, built without storage, tensor by tensor: the peak is the model plus one."""
    with torch.device("meta"):
        clip = Clip(checkpoint.config)
    expected = {name: tuple(tensor.shape) for name, tensor in clip.state_dict().items()}
    _check_tensors(checkpoint.tensors, expected)
    state = {}
    for name, shape in expected.items():
        if name not in checkpoint.tensors:
            state[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        try:
            tensor = checkpoint.tensors[name].load()
            tensor = tensor if name.endswith(_OPTIONAL) else tensor.float()
            state[name] = tensor.reshape(shape).contiguous()
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).split("\n", 1)[0]
            raise CheckpointError(
                f"weight {name} cannot be read ({reason}); download the model again"
            ) from error
    _check_finite(state)
    clip.load_state_dict(state, assign=True)
    return clip.eval().requires_grad_(False)


def _check_tensors(tensors: LazyTensors, expected: dict[str, tuple[int, ...]]) -> None:
    differences = [f"- missing {n}" for n in expected if n not in tensors and _OPTIONAL not in n]
    differences += [f"+ unexpected {name}" for name in tensors if name not in expected]
    for name, shape in expected.items():
        # open_clip may store the temperature as a vector of one.
        found = tensors[name].shape if name in tensors else shape
        if found != shape and not (name == "logit_scale" and found == (1,)):
            differences.append(f"~ {name} has shape {found}, expected {shape}")
    if differences:
        raise CheckpointError(
            "the checkpoint does not fit the model it describes:\n" + "\n".join(sorted(differences))
        )


def _check_finite(state: dict[str, Tensor]) -> None:
    """Refuses weights that are no numbers, of which a ReLU makes zeros: nothing would show it."""
    weights = {name: tensor for name, tensor in state.items() if not name.endswith(_OPTIONAL)}
    wrong = [name for name, tensor in weights.items() if not _is_finite(tensor)]
    if wrong:
        names = ", ".join([*wrong[:_NAMED], *(["..."] if len(wrong) > _NAMED else [])])
        raise CheckpointError(
            f"{len(wrong)} of {len(weights)} weights hold NaN or infinity ({names}); download the "
            "model again, or take an earlier checkpoint of it"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Adds up first, in a tenth of the time: the sum of what is finite mostly is, too."""
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def _tokenizer(path: Path, vocab: str | None, config: ClipConfig) -> Tokenizer:
    merges = _merges(path, vocab, config.text.vocab_size)
    tokenizer = Tokenizer(merges, config.text.context_length)
    if tokenizer.vocab_size != config.text.vocab_size:
        raise CheckpointError(
            f"the model has {config.text.vocab_size} token ids, its vocabulary "
            f"{tokenizer.vocab_size}; name the right one with `--vocab`"
        )
    return tokenizer


def _merges(path: Path, vocab: str | None, vocab_size: int) -> vocabulary.Merges:
    if vocab is not None:
        with local_model(vocab) as file:
            if file.is_dir():
                raise vocabulary.VocabularyError(
                    f"expected `--vocab` to name a file, got the directory {vocab}; name one like "
                    + ", ".join(vocabulary.FILE_NAMES)
                )
            return vocabulary.read_merges(file.name, file.read_bytes())
    folder = path if path.is_dir() else path.parent
    beside = vocabulary.FILE_NAMES if path.is_dir() else (vocabulary.OPENAI_FILE,)
    for name in beside:
        if (folder / name).exists():
            return vocabulary.read_merges(name, (folder / name).read_bytes())
    if vocab_size == vocabulary.OPENAI_VOCAB_SIZE:
        return vocabulary.find_openai_merges()
    raise vocabulary.VocabularyError(
        f"expected a BPE vocabulary ({', '.join(vocabulary.FILE_NAMES)}) beside the model, got "
        "none; name a file with `--vocab`"
    )
