"""Takes a model to another image size, as ViT-L/14@336px was made of ViT-L/14."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.config import ClipConfig, ConfigError, VitConfig
from clip_core.model import Clip


def with_image_size(config: ClipConfig, image_size: int) -> ClipConfig:
    """Returns the configuration for another image size.

    Raises:
        ConfigError: if the size is not a multiple of the patch, or of 32 for a ResNet.
    """
    vision = config.vision
    step = vision.patch_size if isinstance(vision, VitConfig) else 32
    if image_size < step or image_size % step:
        raise ConfigError(f"`image_size` must be a multiple of {step}, got {image_size}")
    return replace(config, vision=replace(vision, image_size=image_size))


@torch.no_grad()
def at_image_size(clip: Clip, image_size: int) -> Clip:
    """Returns a model for another image size; all weights but the positions are the same tensors.

    Raises:
        ConfigError: as `with_image_size`.
    """
    config = with_image_size(clip.config, image_size)
    if config == clip.config:
        return clip
    state = clip.state_dict(keep_vars=True)
    name = "visual.positional_embedding"
    if name not in state:
        name = "visual.attnpool.positional_embedding"
    state[name] = nn.Parameter(_interpolated(state[name], config.vision.grid))
    with torch.device("meta"):
        resized = Clip(config)
    resized.load_state_dict(state, assign=True)
    return resized.train(clip.training)


def _interpolated(positions: Tensor, grid: int) -> Tensor:
    """[1 + old * old, width] -> [1 + grid * grid, width], bicubic; the first row stays as it is."""
    first, squares = positions[:1], positions[1:]
    old = round(len(squares) ** 0.5)
    plane = squares.float().T.reshape(1, -1, old, old)
    plane = F.interpolate(plane, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, plane.flatten(2)[0].T.to(positions.dtype)])
