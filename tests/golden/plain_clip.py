"""CLIP in plain NumPy and float64, to compute the golden features by.

Written from Radford et al. 2021, section 2.4, and the released code, and from nothing of this
project: texts are padded, every token goes through every layer, nothing is fused. The names of
weights are those of the released state dicts.

How it was checked: it was run on two small TorchScript archives of the released code (a ViT and a
ModifiedResNet of random weights, fp16 and fp32), whose features and logits that code itself had
computed in float32 on a processor. Its outputs differ by at most 1.2e-6 of the largest value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

HEAD_WIDTH = 64
EPSILON = 1e-5
Weights = Mapping[str, np.ndarray]


def clip_outputs(weights: Weights, pixels: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Runs both towers.

    Args:
        weights: by name, of any float type.
        pixels: [images, 3, size, size], standardised.
        tokens: [texts, context] ids, padded by 0.

    Returns:
        `image_features` [images, embed_dim] and `text_features` [texts, embed_dim], neither
        normalised, and `logits_per_image` [images, texts]; float64.
    """
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    encode_image = vision_transformer if "visual.proj" in weights else modified_resnet
    image = encode_image(weights, pixels.astype(np.float64))
    text = text_transformer(weights, tokens)
    cosine = (image / norms(image)) @ (text / norms(text)).T
    logits = np.exp(weights["logit_scale"]) * cosine
    return {"image_features": image, "text_features": text, "logits_per_image": logits}


def text_transformer(weights: Weights, tokens: np.ndarray) -> np.ndarray:
    """[texts, context] -> [texts, embed_dim]."""
    x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"]
    # A token sees itself and what is before it.
    mask = np.triu(np.full((tokens.shape[1], tokens.shape[1]), -np.inf), k=1)
    x = transformer(weights, "transformer", x, mask)
    x = layer_norm(weights, "ln_final", x)
    # The end token has the largest id.
    return x[np.arange(len(x)), tokens.argmax(axis=-1)] @ weights["text_projection"]


def vision_transformer(weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """[images, 3, size, size] -> [images, embed_dim]."""
    kernel = weights["visual.conv1.weight"]
    x = convolution(pixels, kernel, stride=kernel.shape[-1])
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)  # [images, patches, width]
    start = np.tile(weights["visual.class_embedding"], (len(x), 1, 1))
    x = np.concatenate([start, x], axis=1) + weights["visual.positional_embedding"]
    x = layer_norm(weights, "visual.ln_pre", x)
    x = transformer(weights, "visual.transformer", x, mask=np.zeros(()))
    return layer_norm(weights, "visual.ln_post", x[:, 0]) @ weights["visual.proj"]


def transformer(weights: Weights, prefix: str, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """All blocks: [batch, seq, width] -> [batch, seq, width]; `mask` is added to the scores."""
    layer = 0
    while f"{prefix}.resblocks.{layer}.ln_1.weight" in weights:
        block = f"{prefix}.resblocks.{layer}"
        x = x + self_attention(
            weights, f"{block}.attn", layer_norm(weights, f"{block}.ln_1", x), mask
        )
        inside = linear(weights, f"{block}.mlp.c_fc", layer_norm(weights, f"{block}.ln_2", x))
        x = x + linear(weights, f"{block}.mlp.c_proj", quick_gelu(inside))
        layer += 1
    return x


def self_attention(weights: Weights, prefix: str, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[batch, seq, width] -> [batch, seq, width]."""
    qkv = x @ weights[f"{prefix}.in_proj_weight"].T + weights[f"{prefix}.in_proj_bias"]
    query, key, value = np.split(qkv, 3, axis=-1)
    return linear(weights, f"{prefix}.out_proj", attention(query, key, value, mask))


def attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Head by head; each of [batch, seq, width], and so is what it returns."""
    heads = []
    for start in range(0, query.shape[-1], HEAD_WIDTH):
        part = slice(start, start + HEAD_WIDTH)
        scores = query[..., part] @ key[..., part].transpose(0, 2, 1) / np.sqrt(HEAD_WIDTH)
        heads.append(softmax(scores + mask) @ value[..., part])
    return np.concatenate(heads, axis=-1)


def modified_resnet(weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """[images, 3, size, size] -> [images, embed_dim]."""
    x = pixels
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = convolution(x, weights[f"visual.conv{number}.weight"], stride, padding=1)
        x = relu(batch_norm(weights, f"visual.bn{number}", x))
    x = average_pool(x, 2)
    for stage in (1, 2, 3, 4):
        block = 0
        while f"visual.layer{stage}.{block}.conv1.weight" in weights:
            stride = 2 if stage > 1 and block == 0 else 1
            x = bottleneck(weights, f"visual.layer{stage}.{block}", x, stride)
            block += 1
    return attention_pool(weights, "visual.attnpool", x)


def bottleneck(weights: Weights, prefix: str, x: np.ndarray, stride: int) -> np.ndarray:
    """[batch, channels, height, width] -> the same, with 4 times the block's own channels."""
    residual = x
    if f"{prefix}.downsample.0.weight" in weights:
        residual = convolution(average_pool(x, stride), weights[f"{prefix}.downsample.0.weight"])
        residual = batch_norm(weights, f"{prefix}.downsample.1", residual)
    x = convolution(x, weights[f"{prefix}.conv1.weight"])
    x = relu(batch_norm(weights, f"{prefix}.bn1", x))
    x = convolution(x, weights[f"{prefix}.conv2.weight"], padding=1)
    x = relu(batch_norm(weights, f"{prefix}.bn2", x))
    x = convolution(average_pool(x, stride), weights[f"{prefix}.conv3.weight"])
    return relu(batch_norm(weights, f"{prefix}.bn3", x) + residual)


def attention_pool(weights: Weights, prefix: str, x: np.ndarray) -> np.ndarray:
    """[batch, width, height, width] -> [batch, embed_dim]: what the mean gathers."""
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)  # [batch, positions, width]
    x = np.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
    x = x + weights[f"{prefix}.positional_embedding"]
    query, key, value = (linear(weights, f"{prefix}.{name}_proj", x) for name in "qkv")
    return linear(weights, f"{prefix}.c_proj", attention(query, key, value, np.zeros(())))[:, 0]


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """[batch, in, height, width] with a kernel [out, in, side, side], without a bias."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, kernel.shape[-2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bihwyx,oiyx->bohw", windows, kernel, optimize=True)


def average_pool(x: np.ndarray, side: int) -> np.ndarray:
    """Means of squares that do not overlap; a side of 1 changes nothing."""
    batch, channels, height, width = x.shape
    squares = x.reshape(batch, channels, height // side, side, width // side, side)
    return squares.mean(axis=(3, 5))


def batch_norm(weights: Weights, prefix: str, x: np.ndarray) -> np.ndarray:
    """Normalises channels by the running statistics."""
    kinds = ("running_mean", "running_var", "weight", "bias")
    mean, variance, scale, shift = (weights[f"{prefix}.{kind}"][:, None, None] for kind in kinds)
    return (x - mean) / np.sqrt(variance + EPSILON) * scale + shift


def layer_norm(weights: Weights, prefix: str, x: np.ndarray) -> np.ndarray:
    """Normalises the last dimension."""
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    return centred / deviation * weights[f"{prefix}.weight"] + weights[f"{prefix}.bias"]


def linear(weights: Weights, prefix: str, x: np.ndarray) -> np.ndarray:
    """[..., in] -> [..., out]."""
    return x @ weights[f"{prefix}.weight"].T + weights[f"{prefix}.bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last dimension."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(1.702 x), as all released weights were trained with."""
    return x / (1 + np.exp(-1.702 * x))


def relu(x: np.ndarray) -> np.ndarray:
    """What is below zero becomes zero."""
    return np.maximum(x, 0)


def norms(features: np.ndarray) -> np.ndarray:
    """[rows, dim] -> [rows, 1], the L2 norms."""
    return np.sqrt((features**2).sum(axis=-1, keepdims=True))
