"""Layers whose matrices are laid out once as oneDNN multiplies them, activations fused behind."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from clip_core.model import Attention, Mlp, Transformer, quick_gelu
from clip_core.resnet import Bottleneck, ModifiedResNet

# A hint for the layout of packed matrices: rows in a typical product.
_ROWS = 512
_QUICK_GELU_SLOPE = 1.702


class PackedLinear(nn.Module):
    """A linear map with its weight as oneDNN wants it, and perhaps an activation behind it."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str = "none") -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._bias = bias.contiguous()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, self._activation, [], "none"
        )
        return found


class PackedConvolution(nn.Module):
    """A convolution with its weight as oneDNN wants it, with what follows fused behind it."""

    def __init__(self, convolution: nn.Conv2d, activation: str = "none") -> None:
        super().__init__()
        shape = [list(v) for v in (convolution.padding, convolution.stride, convolution.dilation)]
        self._shape = (*shape, convolution.groups)
        weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._shape)
        self._bias = cast(Tensor, convolution.bias).detach()
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._shape, self._activation, [], ""
        )
        return found

    def add_relu(self, x: Tensor, other: Tensor) -> Tensor:
        """Returns relu(convolution of x + other)."""
        found: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self._weight, self._bias, *self._shape, "add", 1.0, "relu", [], ""
        )
        return found


class PackedBottleneck(nn.Module):
    """A bottleneck whose BatchNorms are folded, with its activations fused."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1 = PackedConvolution(block.conv1, "relu")
        self.conv2 = PackedConvolution(block.conv2, "relu")
        self.avgpool = block.avgpool
        self.conv3 = PackedConvolution(block.conv3)
        self.downsample = block.downsample
        if self.downsample is not None:
            shortcut = PackedConvolution(cast(nn.Conv2d, getattr(self.downsample, "0")))
            setattr(self.downsample, "0", shortcut)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        return self.conv3.add_relu(self.avgpool(self.conv2(self.conv1(x))), residual)


def pack(transformer: Transformer) -> None:
    last = transformer.blocks[-1]
    for block in transformer.blocks:
        _pack_attention(block.attn, ("q", "kv") if block is last else ("qkv",))
        _pack_mlp(block.mlp)


def pack_resnet(visual: ModifiedResNet) -> None:
    for name in ("conv1", "conv2", "conv3"):
        setattr(visual, name, PackedConvolution(getattr(visual, name), "relu"))
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        for name, block in list(stage.named_children()):
            setattr(stage, name, PackedBottleneck(cast(Bottleneck, block)))


def _pack_attention(attention: Attention, parts: tuple[str, ...]) -> None:
    attention.packed = nn.ModuleDict({p: PackedLinear(*attention.projection(p)) for p in parts})
    # What is packed is not kept a second time.
    attention.in_proj_weight = attention.in_proj_bias = None  # type: ignore[assignment]
    attention.out_proj = _packed(attention.out_proj.weight, attention.out_proj.bias)


def _pack_mlp(mlp: Mlp) -> None:
    inner, outer = mlp.c_fc, mlp.c_proj
    if mlp.activation is quick_gelu:
        # x * sigmoid(a x) is swish(a x) / a, and swish is what can be fused.
        a = _QUICK_GELU_SLOPE
        mlp.c_fc = _packed(inner.weight * a, inner.bias * a, "swish")
        mlp.c_proj = _packed(outer.weight / a, outer.bias)
    else:
        mlp.c_fc = _packed(inner.weight, inner.bias, "gelu")
        mlp.c_proj = _packed(outer.weight, outer.bias)
    mlp.activation = nn.Identity()


def _packed(*linear: Any) -> Any:
    """A `PackedLinear` that may stand where an `nn.Linear` stood."""
    return PackedLinear(*linear)
