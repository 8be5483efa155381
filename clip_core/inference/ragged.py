"""Encodes captions of different lengths side by side, their tokens one after the other.

Attention runs within each bucket of captions of like length. All else acts on each token alone and
runs over pieces of one size: on a processor their activations stay in its cache, and oneDNN, which
keeps what it generated for a shape, meets few shapes instead of another one for each bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_core.inference.transfer import upload
from clip_core.model import Block, Clip, l2_normalize

CPU_TOKENS = 1024  # of a piece
MULTIPLE = 64  # of tokens, in the last piece too


def encode_ragged(clip: Clip, buckets: Sequence[Tensor]) -> Tensor:
    """Embeds captions, pooled at the first position of each one's largest id (the end token).

    Args:
        clip: a model in evaluation mode.
        buckets: at least one; each [captions, length] int64 on the processor, cut behind its last
            end token.

    Returns:
        [captions, embed_dim] float32 on the model's device, L2-normalised, in the order of the
        buckets. Equal to `Clip.encode_text` to within float rounding.
    """
    texts = _Texts(buckets, clip.logit_scale.device)
    x = clip.token_embedding(texts.tokens) + clip.positional_embedding[texts.positions]
    pieces = x.to(clip.dtype).split(texts.piece)
    *body, last = clip.transformer.blocks
    for block in body:
        pieces = _mix(block, pieces, texts)
    pooled = _mix_pooled(last, pieces, texts)
    return l2_normalize(clip.ln_final(pooled) @ clip.text_projection)


class _Texts:
    """Where each token is.

    Attributes:
        tokens: [tokens] int64, bucket by bucket; zeros make their number a multiple.
        positions: [tokens] int64, of each in its caption.
        ends: [captions] int64, where in `tokens` each caption ends.
        shapes: captions and length of each bucket, and of the zeros.
        piece: tokens in each piece but the last.
    """

    def __init__(self, buckets: Sequence[Tensor], device: torch.device) -> None:
        zeros = buckets[0].new_zeros(1, -sum(map(Tensor.numel, buckets)) % MULTIPLE)
        tokens = torch.cat([bucket.flatten() for bucket in (*buckets, zeros)])
        seqs = [torch.arange(bucket.shape[1]).expand_as(bucket) for bucket in buckets]
        positions = torch.cat([seq.flatten() for seq in (*seqs, zeros)])
        marks = [F.one_hot(bucket.argmax(dim=1), bucket.shape[1]).flatten() for bucket in buckets]
        ends = torch.cat(marks).nonzero().squeeze(1)
        # Found on the processor, since a GPU would have to finish all it does to tell a number.
        self.tokens, self.positions, self.ends = (
            upload(values, device) for values in (tokens, positions, ends)
        )
        self.shapes = [(len(bucket), bucket.shape[1]) for bucket in (*buckets, zeros)]
        self.piece = CPU_TOKENS if device.type == "cpu" else len(tokens)

    def by_bucket(self, x: Tensor) -> Iterator[Tensor]:
        """[tokens, width] -> a view of each bucket, [captions, length, width], the zeros last."""
        parts = x.split([captions * length for captions, length in self.shapes])
        return (part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True))


def _mix(block: Block, pieces: Sequence[Tensor], texts: _Texts) -> list[Tensor]:
    attention = block.attn
    qkv = torch.cat([attention.project(block.ln_1(piece), "qkv") for piece in pieces])
    parts = (attention.mix(part, causal=True) for part in texts.by_bucket(qkv) if part.numel())
    mixed = torch.cat([part.flatten(0, 1) for part in parts]).split(texts.piece)
    return [block.finish(piece, part) for piece, part in zip(pieces, mixed, strict=True)]


def _mix_pooled(block: Block, pieces: Sequence[Tensor], texts: _Texts) -> Tensor:
    """Evaluates the last block for the end tokens alone; returns [captions, width]."""
    attention = block.attn
    kv = torch.cat([attention.project(block.ln_1(piece), "kv") for piece in pieces])
    asking = torch.cat(list(pieces))[texts.ends]
    query = attention.project(block.ln_1(asking), "q")
    captions = [captions for captions, _ in texts.shapes[:-1]]
    queries, ends = query.split(captions), texts.positions[texts.ends].split(captions)
    parts = zip(queries, texts.by_bucket(kv), ends, strict=False)  # without the zeros
    return block.finish(asking, torch.cat([attention.mix_pooled(*part) for part in parts]))
