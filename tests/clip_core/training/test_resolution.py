import pytest
import torch
import torch.nn.functional as F

from clip_core.config import ConfigError
from clip_core.training.resolution import at_image_size, with_image_size
from making import random_clip


def positions(clip):
    pool = getattr(clip.visual, "attnpool", clip.visual)
    return pool.positional_embedding


@pytest.mark.parametrize("variant", ["tiny-rn", "tiny-vit"])
@pytest.mark.parametrize("size", [32, 96, 128])
def test_model_takes_pictures_of_the_new_size(tokenizer, variant, size):
    clip = random_clip(variant, tokenizer)
    resized = at_image_size(clip, size)
    assert resized.config.vision.image_size == size
    assert len(positions(resized)) == resized.config.vision.grid**2 + 1
    assert resized.encode_image(torch.zeros(2, 3, size, size)).shape == (2, 128)
    assert resized.text_projection is clip.text_projection


def test_positions_are_interpolated_on_their_grid(tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    x = torch.linspace(0, 1, 8)
    ramp = (x[:, None] + 10 * x[None, :]).reshape(-1, 1).expand(-1, 128)
    with torch.no_grad():
        positions(clip)[1:] = ramp
        positions(clip)[0] = 7
    found = positions(at_image_size(clip, 128))
    assert torch.equal(found[0], positions(clip)[0])
    plane = found[1:, 0].reshape(16, 16)
    square = ramp[:, 0].reshape(1, 1, 8, 8)
    expected = F.interpolate(square, (16, 16), mode="bicubic", antialias=True)[0, 0]
    assert torch.allclose(plane, expected, atol=1e-4)
    assert (plane.diff(dim=0) > 0).all() and plane[0, -1] > plane[-1, 0]


def test_same_size_is_the_same_model(tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    assert at_image_size(clip, 64) is clip


@pytest.mark.parametrize(("variant", "size"), [("tiny-rn", 80), ("tiny-vit", 60), ("tiny-vit", 0)])
def test_impossible_size_is_refused(tokenizer, variant, size):
    step = 32 if variant == "tiny-rn" else 8
    with pytest.raises(ConfigError, match=f"must be a multiple of {step}, got {size}"):
        with_image_size(random_clip(variant, tokenizer).config, size)
