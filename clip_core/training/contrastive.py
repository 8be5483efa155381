"""The symmetric contrastive objective of Radford et al. 2021, figure 3."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.model import Clip, l2_normalize
from clip_core.recompute import has_batch_statistics, in_pieces
from clip_core.resnet import ModifiedResNet

MAX_LOGIT_SCALE = math.log(
    100
)  # the paper clips the temperature so that logits grow at most 100-fold


@dataclass(frozen=True)
class StepLoss:
    """Loss of one step (scalar tensor) and the share of images whose own caption scored highest."""

    loss: Tensor
    accuracy: Tensor


class Towers(nn.Module):
    """Both towers in one forward pass, as distributed data parallelism needs them.

    Args:
        micro_batch_size: rows of which activations are kept at a time; the others' are recomputed
            for their gradients, which stay those of the whole batch. None: all rows. The image
            tower of a ResNet takes the batch whole, as BatchNorm must see it, and keeps the
            activations between its blocks only.
    """

    def __init__(self, clip: Clip, micro_batch_size: int | None = None) -> None:
        super().__init__()
        self.clip = clip
        self._text_rows = self._image_rows = micro_batch_size
        if micro_batch_size is not None and has_batch_statistics(clip.visual):
            self._image_rows = None
            cast(ModifiedResNet, clip.visual).recompute = True

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns image and text embeddings [batch, dim] of unit norm, and the logit multiplier."""
        clip = self.clip
        image = in_pieces(clip, clip.encode_image, pixels, self._image_rows)
        text = in_pieces(clip, clip.encode_text, tokens, self._text_rows)
        return l2_normalize(image), l2_normalize(text), clip.logit_scale.exp()


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
def retrieval_recall(
    image: Tensor, text: Tensor, k: int, captions: Tensor | None = None
) -> tuple[float, float]:
    """Returns recall@k of captions given images, and of images given captions.

    Row i of `image` belongs to row i of `text`, and to all rows of an equal caption. Ties count
    against the row, and so does what is NaN.

    Args:
        image, text: [rows, dim] unit-norm embeddings.
        captions: [rows, length] tokens, by which captions are equal; None if all differ.
    """
    numbers = torch.arange(len(text), device=text.device)
    group = numbers
    if captions is not None:
        group = torch.unique(captions, dim=0, return_inverse=True)[1].to(text.device)
    distinct = int(group.max()) + 1
    first = numbers.new_full((distinct,), len(text)).scatter_reduce(0, group, numbers, "amin")
    similarity = image @ text[first].T  # [rows, distinct captions]
    is_own = group[:, None] == numbers[:distinct]
    own = similarity.gather(1, group[:, None])
    best = similarity.masked_fill(~is_own, -math.inf).amax(dim=0)
    better_texts = (~(similarity < own) & ~is_own).sum(dim=1)
    better_images = (~(similarity < best) & ~is_own).sum(dim=0)[group]
    to_text = (better_texts < k) & own[:, 0].isfinite()
    to_image = (better_images < k) & best[group].isfinite()
    return to_text.float().mean().item(), to_image.float().mean().item()


def _gather(rows: Tensor) -> Tensor:
    if not dist.is_initialized():
        return rows
    return torch.cat(dist_functional.all_gather(rows.contiguous()))


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
