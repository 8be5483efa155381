import pytest
import torch

from clip_core.recompute import has_batch_statistics, in_pieces
from clip_core.training.contrastive import Towers, contrastive_loss
from making import random_clip

BATCH = 12


def step(tokenizer, variant, micro_batch_size=None, activation_checkpointing=False):
    """One forward and backward pass; returns the loss, the gradients and the model."""
    clip = random_clip(variant, tokenizer).train()
    clip.visual.get_parameter("bn1.weight" if "rn" in variant else "proj").data *= 1.5
    for block in getattr(clip.visual, "blocks", []):  # else each starts as the identity
        block.bn3.weight.data.fill_(0.7)
    if activation_checkpointing:
        for tower in (clip.transformer, getattr(clip.visual, "transformer", clip.visual)):
            tower.recompute = True
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(BATCH, 3, 64, 64, generator=random)
    tokens = torch.from_numpy(tokenizer.tokenize(["a red circle" + " x" * n for n in range(BATCH)]))
    loss = contrastive_loss(*Towers(clip, micro_batch_size)(pixels, tokens)).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in clip.named_parameters()}
    return loss.item(), gradients, clip


@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
@pytest.mark.parametrize("rows", [1, 5, BATCH, 100])
def test_accumulated_gradients_are_those_of_the_whole_batch(tokenizer, variant, rows):
    loss, whole, _ = step(tokenizer, variant)
    same_loss, accumulated, _ = step(tokenizer, variant, rows)
    assert same_loss == pytest.approx(loss, abs=1e-5)
    assert all(gradient.norm() > 0 for gradient in whole.values() if gradient.ndim > 1)
    for name, gradient in whole.items():
        scale = gradient.abs().max().clamp(min=1e-3)
        assert torch.allclose(accumulated[name] / scale, gradient / scale, atol=1e-5), name


@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
def test_activation_checkpointing_changes_neither_gradients_nor_statistics(tokenizer, variant):
    _, whole, plain = step(tokenizer, variant)
    _, found, frugal = step(tokenizer, variant, 4, activation_checkpointing=True)
    for name, gradient in whole.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name
    for name, buffer in plain.named_buffers():
        assert torch.allclose(dict(frugal.named_buffers())[name], buffer, atol=1e-5), name


def test_pieces_keep_fewer_activations(tokenizer):
    def kept(rows):
        saved = 0

        def pack(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        clip = random_clip("tiny-vit", tokenizer).train()
        pixels = torch.randn(BATCH, 3, 64, 64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            in_pieces(clip, clip.encode_image, pixels, rows)
        return saved

    assert kept(3) < kept(None) / 5


def test_only_resnets_have_batch_statistics(tokenizer):
    assert has_batch_statistics(random_clip("tiny-rn", tokenizer).visual)
    assert not has_batch_statistics(random_clip("tiny-vit", tokenizer))
