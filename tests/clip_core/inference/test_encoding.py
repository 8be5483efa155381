import numpy as np
import pytest
import torch

from clip_core.inference import encoding
from clip_core.inference.encoding import (
    CPU_IMAGES,
    MOST_CPU_IMAGES,
    buckets,
    encode_pairs,
    encode_pixels,
    encode_tokens,
)
from clip_core.inference.ragged import CPU_TOKENS, MULTIPLE
from making import random_clip


@pytest.mark.parametrize("padding", [1.0, 1.3])
@pytest.mark.parametrize("count", [1, 53, 130])
@torch.inference_mode()
def test_texts_side_by_side_equal_texts_encoded_one_by_one(tokenizer, monkeypatch, count, padding):
    monkeypatch.setattr(encoding, "CPU_PADDING", padding)
    clip = random_clip("tiny-vit", tokenizer)
    texts = ["circle " * (n % 12) + "star" * (n // 12) for n in range(count)]
    tokens = tokenizer.tokenize(texts, truncate=True)
    alone = [clip.encode_text(torch.from_numpy(row[None]), normalize=True) for row in tokens]
    assert np.abs(encode_tokens(clip, tokens) - torch.cat(alone).numpy()).max() < 1e-5


def test_products_of_texts_have_few_shapes(tokenizer):
    clip, rng = random_clip("tiny-vit", tokenizer), np.random.default_rng(0)
    shapes = set()
    inner = clip.transformer.blocks[0].mlp.c_fc
    inner.register_forward_hook(lambda module, given, made: shapes.add(given[0].shape[0]))
    for _ in range(30):
        letters = rng.choice(list("abcdefgh"), (rng.integers(60, 90), 40))
        texts = [" ".join(row[: rng.integers(1, 40)]) for row in letters]
        encode_tokens(clip, tokenizer.tokenize(texts, truncate=True))
    assert CPU_TOKENS in shapes and shapes <= set(range(0, CPU_TOKENS + 1, MULTIPLE))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("padding, most", [(1.0, 60), (1.1, 20)])
def test_buckets_hold_every_caption_once_with_little_padding(seed, padding, most):
    rng = np.random.default_rng(seed)
    # Of web captions half are short and one in thirty fills the context.
    lengths = np.clip(rng.lognormal(2.7, 0.5, 200).astype(int), 3, 77)
    found = list(buckets(lengths, padding))
    assert sorted(np.concatenate(found)) == list(range(200))
    padded = sum(len(bucket) * lengths[bucket].max() for bucket in found)
    assert padded <= padding * lengths.sum()
    assert len(found) < most


def test_captions_of_one_length_are_one_bucket():
    assert [bucket.tolist() for bucket in buckets(np.full(3, 9), 1.0)] == [[0, 1, 2]]
    assert list(buckets(np.zeros(0, int), 1.0)) == []


def test_images_encoded_in_pieces_equal_images_encoded_alone(tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * MOST_CPU_IMAGES + 3, 3, 64, 64), dtype=np.uint8)
    alone = np.concatenate([encode_pixels(clip, image[None]) for image in pixels])
    assert np.abs(encode_pixels(clip, pixels) - alone).max() < 1e-5


def test_equal_captions_are_encoded_once(tokenizer, monkeypatch):
    clip = random_clip("tiny-rn", tokenizer)
    seen = []
    clip.ln_final.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    found = encode_tokens(clip, tokenizer.tokenize(["a star", "a circle", "a star", "a star"]))
    assert seen == [2]
    assert (found[0] == found[2]).all() and (found[0] != found[1]).any()


def test_no_rows_encode_to_no_rows(tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    assert encode_tokens(clip, np.zeros((0, 32), np.int64)).shape == (0, 128)


def test_pairs_are_encoded_as_their_parts(tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    tokens = tokenizer.tokenize(["a star", "a red circle", "a star"])
    images, texts = encode_pairs(clip, [pixels[:1], pixels[1:]], tokens)
    assert (images == encode_pixels(clip, pixels)).all()
    assert (texts == encode_tokens(clip, tokens)).all()


def test_encoded_pixels_are_normalised_float32(tokenizer):
    clip = random_clip("tiny-rn", tokenizer)
    found = encode_pixels(clip, np.zeros((2, 3, 64, 64), np.uint8))
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "most"), [(64, MOST_CPU_IMAGES), (144, 38), (224, CPU_IMAGES), (336, CPU_IMAGES)]
)
def test_pieces_of_images_stay_in_the_cache(size, most):
    clip, seen = torch.nn.Module(), []
    clip.logit_scale = torch.zeros(1)
    clip.encode_image = lambda piece, normalize: seen.append(len(piece)) or piece[:, 0, 0]
    encode_pixels(clip, np.zeros((70, 3, size, size), np.uint8))
    assert seen == [*[most] * (70 // most), 70 % most]
