import numpy as np
import pytest
import torch

from clip_core.inference.encoding import encode_pairs
from clip_core.inference.transfer import upload, upload_joined
from making import random_clip

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="asks for a GPU")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count, pieces", [(1, 1), (300, 1), (300, 7)])
def test_arrays_arrive_as_they_are(device, count, pieces):
    arrays = np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    blocks = np.array_split(arrays, pieces)
    for _ in range(3):  # the memory that is copied from is used again
        found = upload_joined(blocks, torch.device(device))
        assert found.device.type == device and (found.cpu().numpy() == arrays).all()
    ids = torch.arange(count)
    assert (upload(ids, torch.device(device)).cpu() == ids).all()


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_encodes_as_the_processor_does(device, tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    tokens = tokenizer.tokenize(["a star", "a red circle " * 3, "", "a star", "a large cross"])
    expected = encode_pairs(clip, [pixels[:2], pixels[2:]], tokens)
    found = encode_pairs(clip.to(device), [pixels[:2], pixels[2:]], tokens)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 1e-5
