"""The ModifiedResNet image tower of Radford et al. 2021, section 2.4.

It differs from the textbook ResNet in its three-convolution stem, in average pooling before every
strided convolution (ResNet-D, and anti-aliasing after Zhang 2019), and in attention pooling.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.config import ResNetConfig

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; a stride is an average pooling after the 3x3."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.avgpool: nn.Module = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride > 1 or channels_in != channels_out:
            self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(self.avgpool(x)))
        return F.relu(x + residual)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """Names its parts as the released state dicts do: "-1" (no parameters), "0" and "1"."""
    return nn.Sequential(
        OrderedDict(
            [
                ("-1", nn.AvgPool2d(stride)),
                ("0", nn.Conv2d(channels_in, channels_out, 1, bias=False)),
                ("1", nn.BatchNorm2d(channels_out)),
            ]
        )
    )


class AttentionPool(nn.Module):
    """One attention layer whose only query is the mean over all positions."""

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(grid**2 + 1, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, width, grid, grid] to [batch, embed_dim]."""
        x = x.flatten(2).transpose(1, 2)  # [batch, grid * grid, width]
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        query = self._split(self.q_proj(x[:, :1]))
        key, value = self._split(self.k_proj(x)), self._split(self.v_proj(x))
        mixed = F.scaled_dot_product_attention(query, key, value)  # [batch, heads, 1, head_width]
        return self.c_proj(mixed.transpose(1, 2).flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ModifiedResNet(nn.Module):
    """Stem, four stages of bottlenecks, attention pooling. ReLU throughout."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        channels = width
        for index, blocks in enumerate(config.layers):
            stage_width = width * 2**index
            stage = _stage(channels, stage_width, blocks, stride=1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", stage)
            channels = stage_width * EXPANSION
        self.attnpool = AttentionPool(config.grid, channels, config.heads, embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps [batch, 3, size, size] to [batch, embed_dim]."""
        x = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(F.relu(self.bn3(self.conv3(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.attnpool(x)


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels_in, channels, stride)
    rest = (Bottleneck(channels * EXPANSION, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
