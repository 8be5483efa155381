"""The ModifiedResNet image tower of Radford et al. 2021, section 2.4.

It differs from the textbook ResNet in its three-convolution stem, in average pooling before every
strided convolution (ResNet-D, and anti-aliasing after Zhang 2019), and in attention pooling.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import cast

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.config import ResNetConfig
from clip_core.recompute import recomputed

EXPANSION = 4


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose batch, in training, is that of all processes together.

    Each process must hold an equal share. (torch's own `SyncBatchNorm` needs a GPU.)
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        mean = _mean_over_processes(x.float().mean(dim=(0, 2, 3)))
        centred = x.float() - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean(dim=(0, 2, 3)))
        if self.track_running_stats:
            self._count(mean, variance, x.numel() // x.shape[1] * dist.get_world_size())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _count(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Moves the running statistics towards the batch's, the variance being unbiased."""
        momentum = cast(float, self.momentum)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * values / (values - 1), momentum)


def _mean_over_processes(values: Tensor) -> Tensor:
    found: Tensor = dist_functional.all_reduce(values) / dist.get_world_size()
    return found


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; a stride is an average pooling after the 3x3."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = BatchNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(channels)
        self.avgpool: nn.Module = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = BatchNorm(channels_out)
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
                ("1", BatchNorm(channels_out)),
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
        """Maps [batch, width, grid, grid] to [batch, embed_dim].

        As there is one query, the key's matrix is applied to it and the value's to what it has
        gathered, instead of both to every position.
        """
        x = x.flatten(2).transpose(1, 2)  # [batch, positions, width]
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        query = self.q_proj(x[:, 0]).unflatten(-1, (self.heads, -1))
        asked = torch.einsum("bhd,hdw->bhw", query, self._by_head(self.k_proj))
        bias = (query * self.k_proj.bias.unflatten(0, (self.heads, -1))).sum(dim=-1, keepdim=True)
        scores = (asked @ x.transpose(1, 2) + bias) * query.shape[-1] ** -0.5
        gathered = scores.softmax(dim=-1, dtype=torch.float32).to(x.dtype) @ x
        value = torch.einsum("bhw,hdw->bhd", gathered, self._by_head(self.v_proj))
        found: Tensor = self.c_proj(value.flatten(1) + self.v_proj.bias)
        return found

    def _by_head(self, linear: nn.Linear) -> Tensor:
        """Views a weight as [heads, head_width, width]."""
        found: Tensor = linear.weight.unflatten(0, (self.heads, -1))
        return found


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
        self.bn1 = BatchNorm(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm(width)
        self.avgpool = nn.AvgPool2d(2)
        channels = width
        for index, blocks in enumerate(config.layers):
            stage_width = width * 2**index
            stage = _stage(channels, stage_width, blocks, stride=1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", stage)
            channels = stage_width * EXPANSION
        self.attnpool = AttentionPool(config.grid, channels, config.heads, embed_dim)
        self.recompute = False  # in training: keep no activations inside a block

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps [batch, 3, size, size] to [batch, embed_dim]."""
        x = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(F.relu(self.bn3(self.conv3(x))))
        for block in self.blocks:
            x = recomputed(block, block, x) if self.recompute else block(x)
        found: Tensor = self.attnpool(x)
        return found

    @property
    def blocks(self) -> Iterator[nn.Module]:
        """The bottlenecks of the four stages, first to last."""
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            yield from stage.children()


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels_in, channels, stride)
    rest = (Bottleneck(channels * EXPANSION, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
