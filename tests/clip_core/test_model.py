from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clip_core.model import ACTIVATION_FUNCTIONS, Clip, l2_normalize, quick_gelu
from clip_core.resnet import AttentionPool
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS
from making import random_clip

VARIANT_NAMES = ("tiny-rn", "tiny-vit")


def pixels_of(clip: Clip, batch: int = 3) -> torch.Tensor:
    size = clip.config.vision.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def tokens_of(tokenizer) -> torch.Tensor:
    texts = ["a red circle", "a photo of a large blue star on white", "", "circle " * 60]
    return torch.from_numpy(tokenizer.tokenize(texts, truncate=True))


@pytest.fixture(params=VARIANT_NAMES)
def clip(request, tokenizer) -> Clip:
    return random_clip(request.param, tokenizer)


@torch.inference_mode()
def test_image_features_do_not_depend_on_the_batch(clip):
    pixels = pixels_of(clip)
    alone = torch.cat([clip.encode_image(pixels[i : i + 1], True) for i in range(3)])
    assert torch.allclose(alone, clip.encode_image(pixels, True), atol=1e-5)


@torch.inference_mode()
def test_text_features_do_not_depend_on_the_batch(clip, tokenizer):
    tokens = tokens_of(tokenizer)
    alone = torch.cat([clip.encode_text(tokens[i : i + 1], True) for i in range(len(tokens))])
    assert torch.allclose(alone, clip.encode_text(tokens, True), atol=1e-5)


@torch.inference_mode()
def test_pooled_last_block_equals_the_whole_block(tokenizer):
    clip = random_clip("tiny-vit", tokenizer)
    x = torch.randn(4, 9, 128, generator=torch.Generator().manual_seed(1))
    position = torch.tensor([0, 3, 8, 5])
    block = clip.transformer.blocks[0]
    for causal in (True, False):
        whole = block(x, causal)[torch.arange(4), position]
        assert torch.allclose(block.pooled(x, position, causal), whole, atol=1e-5)


@torch.inference_mode()
def test_text_features_ignore_what_follows_the_end_token(clip, tokenizer):
    tokens = tokens_of(tokenizer)[:1]
    noisy = tokens.clone()
    noisy[0, int(tokens.argmax()) + 1 :] = 5
    assert torch.allclose(clip.encode_text(tokens), clip.encode_text(noisy), atol=1e-6)


@torch.inference_mode()
def test_text_is_pooled_at_the_first_end_token(clip, tokenizer):
    tokens = tokens_of(tokenizer)[1:2]
    early = tokens.clone()
    early[0, 2] = tokenizer.end_id
    only = torch.zeros_like(early)
    only[0, :3] = early[0, :3]
    assert torch.allclose(clip.encode_text(early), clip.encode_text(only), atol=1e-6)


@torch.inference_mode()
def test_uint8_pixels_are_standardised_on_the_device(clip):
    size = clip.config.vision.image_size
    raw = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (clip.config.mean, clip.config.std))
    expected = clip.encode_image((raw.float() / 255 - mean) / std)
    assert torch.allclose(clip.encode_image(raw), expected, atol=1e-4)


@torch.inference_mode()
def test_logits_are_scaled_cosines_and_transposes(clip, tokenizer):
    pixels, tokens = pixels_of(clip), tokens_of(tokenizer)
    per_image, per_text = clip(pixels, tokens)
    image, text = clip.encode_image(pixels), clip.encode_text(tokens)
    cosine = F.cosine_similarity(image[:, None], text[None], dim=-1)
    assert torch.allclose(per_image, clip.logit_scale.exp() * cosine, atol=1e-4)
    assert torch.equal(per_text, per_image.T)


def test_no_texts_give_no_features(clip):
    empty = torch.zeros(0, 32, dtype=torch.long)
    assert clip.encode_text(empty).shape == (0, 128)


def test_normalised_features_have_unit_norm():
    features = l2_normalize(torch.randn(5, 8).half())
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=-1), torch.ones(5), atol=1e-6)


@torch.inference_mode()
def test_activation_changes_text_features(tokenizer):
    quick = random_clip("tiny-vit", tokenizer)
    exact = Clip(replace(quick.config, activation="gelu")).eval()
    exact.load_state_dict(quick.state_dict())
    tokens = tokens_of(tokenizer)
    difference = (quick.encode_text(tokens) - exact.encode_text(tokens)).abs().max()
    assert difference > 1e-3  # a wrong choice is far above every tolerance of this suite


def test_gelu_is_exact():
    x = torch.linspace(-4, 4, 99)
    expected = x * (1 + torch.erf(x / 2**0.5)) / 2
    assert torch.allclose(ACTIVATION_FUNCTIONS["gelu"](x), expected, atol=1e-6)


def test_quick_gelu_is_the_sigmoid_approximation():
    x = torch.tensor([-1.0, 0.0, 2.0])
    assert torch.allclose(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)))


@torch.inference_mode()
def test_attention_pool_equals_a_plain_loop():
    torch.manual_seed(0)
    pool = AttentionPool(grid=2, width=8, heads=2, embed_dim=6)
    torch.nn.init.normal_(pool.positional_embedding)
    x = torch.randn(1, 8, 2, 2)
    assert torch.allclose(pool(x)[0], slow_attention_pool(pool, x[0]), atol=1e-5)


def slow_attention_pool(pool: AttentionPool, x: torch.Tensor) -> torch.Tensor:
    """Head by head and position by position, after the paper's description."""
    positions = x.flatten(1).T  # [4, 8]
    rows = torch.cat([positions.mean(0, keepdim=True), positions]) + pool.positional_embedding
    query, keys, values = pool.q_proj(rows[0]), pool.k_proj(rows), pool.v_proj(rows)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        weights = torch.softmax((keys[:, part] @ query[part]) / 4**0.5, dim=0)
        heads.append(weights @ values[:, part])
    return pool.c_proj(torch.cat(heads))


@torch.inference_mode()
def test_resnet_stem_equals_plain_convolutions(tokenizer):
    visual = random_clip("tiny-rn", tokenizer).visual
    x = pixels_of(random_clip("tiny-rn", tokenizer), 1)
    found = []
    visual.layer1[0].register_forward_hook(lambda module, inputs, output: found.append(inputs[0]))
    visual(x)
    for index, stride in ((1, 2), (2, 1), (3, 1)):
        weight = getattr(visual, f"conv{index}").weight
        norm = getattr(visual, f"bn{index}")
        x = F.conv2d(x, weight, stride=stride, padding=1)
        mean, var = (v.view(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var))
        x = ((x - mean) / (var + 1e-5).sqrt()).clamp(min=0)
    assert torch.allclose(found[0], F.avg_pool2d(x, 2), atol=1e-5)


def test_initialisation_is_a_function_of_the_seed():
    first, again, other = (new_model(VARIANTS["tiny-rn"], seed) for seed in (1, 1, 2))
    assert torch.equal(first.visual.conv1.weight, again.visual.conv1.weight)
    assert torch.equal(first.text_projection, again.text_projection)
    assert not torch.equal(first.text_projection, other.text_projection)
    assert float(first.logit_scale.detach()) == pytest.approx(2.6593, abs=1e-4)
