"""Makes a loaded model ready to encode: the same function, in fewer and better-laid-out steps.

Nothing here is approximate. BatchNorm is folded into the convolution before it (Jacob et al. 2018,
section 3.2); on a processor the matrices are laid out once as oneDNN multiplies them, with the
activation fused behind the product, which is what torch's compiler does there, too. What a GPU
is given instead is in `clip_core.inference.gpu`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clip_core.inference.gpu import ready_for_gpu
from clip_core.inference.packed import pack, pack_resnet
from clip_core.model import Clip, VisionTransformer
from clip_core.resnet import ModifiedResNet

# Channels of a ResNet's stem from which fused convolutions pay. They cost a millisecond a call
# more than plain ones, which makes a narrow network half as fast; published ones have 64 and more.
FUSED_WIDTH = 64


def ready_to_encode(clip: Clip, compiled: bool = False) -> Clip:
    """Prepares a model, in place, for encoding; it can be neither trained nor saved afterwards.

    Args:
        clip: in evaluation mode, on its device and in its precision.
        compiled: whether to compile its blocks on a GPU; elsewhere it has no effect.

    Returns:
        `clip` itself. Embeddings are equal to within rounding.

    Raises:
        ValueError: if the blocks cannot be compiled.
    """
    if isinstance(clip.visual, ModifiedResNet):
        _fold_batch_norm(clip.visual)
        clip.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if _can_pack(clip):
        pack(clip.transformer)
        if isinstance(clip.visual, VisionTransformer):
            pack(clip.visual.transformer)
        elif isinstance(clip.visual, ModifiedResNet) and _is_wide(clip.visual):
            pack_resnet(clip.visual)
    if clip.logit_scale.device.type == "cuda":
        ready_for_gpu(clip, compiled)
    return clip


def _can_pack(clip: Clip) -> bool:
    on_cpu = clip.logit_scale.device.type == "cpu"
    return on_cpu and clip.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _is_wide(visual: ModifiedResNet) -> bool:
    return visual.conv3.out_channels >= FUSED_WIDTH


def _fold_batch_norm(visual: nn.Module) -> None:
    """Folds every BatchNorm into the convolution whose output it is given."""
    for module in visual.modules():
        children = dict(module.named_children())
        for convolution, norm in _PAIRS:
            if isinstance(children.get(norm), nn.BatchNorm2d):
                pair = cast(Any, (children[convolution], children[norm]))
                setattr(module, convolution, fuse_conv_bn_eval(*pair))
                setattr(module, norm, nn.Identity())


# Names of a convolution and of its BatchNorm: in the stem and in blocks, and in shortcuts.
_PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"))
