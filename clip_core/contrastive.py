"""The symmetric contrastive objective of Radford et al. 2021, figure 3."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.model import Clip

MAX_LOGIT_SCALE = math.log(
    100
)  # the paper clips the temperature so that logits grow at most 100-fold


@dataclass(frozen=True)
class StepLoss:
    """Loss of one step (scalar tensor) and the share of images whose own caption scored highest."""

    loss: Tensor
    accuracy: Tensor


class Towers(nn.Module):
    """Both towers in one forward pass, as distributed data parallelism needs them."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns image and text embeddings [batch, dim] of unit norm, and the logit multiplier."""
        image = self.clip.encode_image(pixels, normalize=True)
        text = self.clip.encode_text(tokens, normalize=True)
        return image, text, self.clip.logit_scale.exp()


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> StepLoss:
    """Scores every image against every caption of the global batch; the diagonal is the truth.

    With several processes each scores its own rows against all; gradients flow back to the rows of
    the others, so that averaged parameter gradients equal those of one process with all rows.

    Args:
        image, text: [batch, dim] unit-norm embeddings of this process.
        scale: scalar, exp of the learned log temperature.
    """
    all_image, all_text = _gather(image), _gather(text)
    first = len(image) * _rank()
    truth = torch.arange(first, first + len(image), device=image.device)
    image_logits = scale * image @ all_text.T
    text_logits = scale * text @ all_image.T
    loss = (F.cross_entropy(image_logits, truth) + F.cross_entropy(text_logits, truth)) / 2
    accuracy = (image_logits.detach().argmax(dim=-1) == truth).float().mean()
    return StepLoss(loss, accuracy)


@torch.no_grad()
def clamp_temperature(clip: Clip) -> None:
    """Keeps the learned log temperature in [0, ln 100]."""
    clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


@torch.no_grad()
def retrieval_recall(image: Tensor, text: Tensor, k: int) -> tuple[float, float]:
    """Returns recall@k of captions given images, and of images given captions.

    Row i of `image` belongs to row i of `text`; ties count against the row.

    Args:
        image, text: [rows, dim] unit-norm embeddings.
    """
    similarity = image @ text.T
    own = similarity.diagonal()
    better_texts = (similarity >= own[:, None]).sum(dim=1) - 1
    better_images = (similarity >= own[None, :]).sum(dim=0) - 1
    return (
        (better_texts < k).float().mean().item(),
        (better_images < k).float().mean().item(),
    )


def _gather(rows: Tensor) -> Tensor:
    if not dist.is_initialized():
        return rows
    return torch.cat(dist_functional.all_gather(rows.contiguous()))


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
