import numpy as np
import pytest
import torch
from conftest import random_clip

from clip_core.encoding import encode_pairs
from clip_core.transfer import upload, upload_stacked

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="asks for a GPU")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 300])
def test_arrays_arrive_as_they_are(device, count):
    arrays = list(np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))
    for _ in range(3):  # the memory that is copied from is used again
        found = upload_stacked(arrays, torch.device(device))
        assert found.device.type == device and (found.cpu().numpy() == np.stack(arrays)).all()
    ids = torch.arange(count)
    assert (upload(ids, torch.device(device)).cpu() == ids).all()


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_encodes_as_the_processor_does(device, tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    tokens = tokenizer.tokenize(["a star", "a red circle " * 3, "", "a star", "a large cross"])
    expected = encode_pairs(clip, list(pixels), tokens)
    found = encode_pairs(clip.to(device), list(pixels), tokens)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 1e-5
