import copy

import numpy as np
import pytest
import torch
from torch import nn

from clip_core.inference import ready
from clip_core.inference.packed import PackedConvolution, PackedLinear
from clip_core.inference.ready import ready_to_encode
from clip_core.loading import cast_precision
from making import random_clip


def shaken(variant, tokenizer, activation="quick_gelu"):
    """A random model whose normalisations and biases all matter."""
    clip = random_clip(variant, tokenizer)
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in clip.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=random)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=random), alpha=0.2)
    for block in (
        *clip.transformer.blocks,
        *getattr(clip.visual, "transformer", clip.transformer).blocks,
    ):
        if activation == "gelu":
            block.mlp.activation = nn.functional.gelu
    return clip


@pytest.fixture
def fused(monkeypatch):
    """Lets convolutions be fused in narrow networks, too, where they do not pay."""
    monkeypatch.setattr(ready, "FUSED_WIDTH", 1)


def embeddings(clip, tokenizer, rows=3):
    pixels = torch.randn(rows, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = torch.from_numpy(tokenizer.tokenize(["a red circle " * (n + 1) for n in range(rows)]))
    with torch.inference_mode():
        return torch.cat([clip.encode_image(pixels), clip.encode_text(tokens)]).float()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("width", [1, ready.FUSED_WIDTH])
def test_prepared_model_computes_the_same(tokenizer, monkeypatch, variant, activation, rows, width):
    monkeypatch.setattr(ready, "FUSED_WIDTH", width)
    clip = shaken(variant, tokenizer, activation)
    expected = embeddings(clip, tokenizer, min(rows, 9))
    found = embeddings(ready_to_encode(copy.deepcopy(clip)), tokenizer, min(rows, 9))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
def test_everything_that_pays_is_packed_and_folded(tokenizer, fused, variant):
    clip = ready_to_encode(random_clip(variant, tokenizer))
    kinds = [type(module) for module in clip.modules()]
    assert nn.BatchNorm2d not in {base for kind in kinds for base in kind.__mro__}
    assert PackedLinear in kinds
    linear = [name for name, module in clip.named_modules() if isinstance(module, nn.Linear)]
    assert all(name.startswith("visual.attnpool") for name in linear)
    assert (PackedConvolution in kinds) == (variant == "tiny-rn")
    whole = [name for name, module in clip.named_modules() if isinstance(module, nn.Conv2d)]
    assert all(name == "visual.conv1" and variant == "tiny-vit" for name in whole)


def test_narrow_resnet_keeps_plain_convolutions(tokenizer):
    clip = ready_to_encode(random_clip("tiny-rn", tokenizer))
    kinds = {type(module) for module in clip.visual.modules()}
    assert nn.Conv2d in kinds and PackedConvolution not in kinds


def test_weights_are_not_kept_twice(tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    before = sum(parameter.numel() for parameter in clip.parameters())
    ready_to_encode(clip)
    assert sum(parameter.numel() for parameter in clip.parameters()) < before / 2


@pytest.mark.parametrize("size", [1, 2])
def test_packed_resnet_takes_batches_of_any_size_and_layout(tokenizer, fused, size):
    clip = shaken("tiny-rn", tokenizer)
    pixels = torch.randn(size, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = clip.encode_image(pixels)
        found = ready_to_encode(clip).encode_image(pixels)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
def test_low_precision_is_folded_but_not_packed(tokenizer, variant, dtype):
    clip = shaken(variant, tokenizer)
    expected = embeddings(clip, tokenizer)
    low = ready_to_encode(cast_precision(copy.deepcopy(clip), dtype))
    assert PackedLinear not in {type(module) for module in low.modules()}
    cosine = torch.cosine_similarity(embeddings(low, tokenizer), expected)
    assert (1 - cosine).max() < 2e-3


def test_machine_without_onednn_encodes_all_the_same(tokenizer, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    clip = shaken("tiny-vit", tokenizer)
    expected = embeddings(clip, tokenizer)
    assert np.allclose(embeddings(ready_to_encode(clip), tokenizer), expected, atol=1e-6)
    assert ready._can_pack(clip) is False


def test_every_norm_of_a_resnet_has_its_convolution(tokenizer):
    visual = random_clip("tiny-rn", tokenizer).visual
    norms = [name for name, part in visual.named_modules() if isinstance(part, nn.BatchNorm2d)]
    names = {norm for _, norm in ready._PAIRS}
    assert norms and {name.rsplit(".", 1)[-1] for name in norms} <= names
