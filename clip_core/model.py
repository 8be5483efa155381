"""CLIP: both towers and the cosine logits, after Radford et al. 2021.

Parameter names are those of the released state dicts, so a checkpoint loads without renaming.
Two exact shortcuts are always taken: texts are cut at the longest end token of the batch
(causal attention never looks past it), and the last block is evaluated for the pooled token only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_core.config import ClipConfig, TextConfig, VitConfig
from clip_core.recompute import recomputed
from clip_core.resnet import ModifiedResNet

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


def quick_gelu(x: Tensor) -> Tensor:
    """Returns x * sigmoid(1.702 x), the approximation all OpenAI weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
}


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in float32 whatever the precision of the activations."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for query, key and value.

    Attributes:
        packed: maps that stand for rows of the projection, once a model is made ready to encode.
    """

    in_proj_weight: Tensor
    in_proj_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.packed = nn.ModuleDict()

    def mix(self, qkv: Tensor, causal: bool) -> Tensor:
        """Attends from every token; [batch, seq, 3 width] -> [batch, seq, width]."""
        query, key, value = map(self._split, qkv.chunk(3, dim=-1))
        return self._join(F.scaled_dot_product_attention(query, key, value, is_causal=causal))

    def mix_pooled(self, asking: Tensor, kv: Tensor, last: Tensor | None) -> Tensor:
        """Attends from one token of each row only.

        Args:
            asking: [batch, width], the queries.
            kv: [batch, seq, 2 width], keys and values.
            last: [batch] int64, the last position that may be seen; None for all.

        Returns:
            [batch, width].
        """
        key, value = map(self._split, kv.chunk(2, dim=-1))
        visible = None
        if last is not None:
            seq = torch.arange(kv.shape[1], device=kv.device)
            visible = (seq <= last[:, None])[:, None, None]  # [batch, 1, 1, seq]
        query = self._split(asking.unsqueeze(1))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self._join(mixed).squeeze(1)

    def project(self, x: Tensor, part: str) -> Tensor:
        """Maps [..., width] to `qkv`, `q` or `kv`, one after the other in the last dimension."""
        return self.packed[part](x) if self.packed else F.linear(x, *self.projection(part))

    def projection(self, part: str) -> tuple[Tensor, Tensor]:
        """Returns weight and bias of `qkv`, `q` or `kv`: rows of the fused projection."""
        width = self.in_proj_weight.shape[1]
        rows = {"qkv": slice(None), "q": slice(width), "kv": slice(width, None)}[part]
        return self.in_proj_weight[rows], self.in_proj_bias[rows]

    def _split(self, x: Tensor) -> Tensor:
        """[batch, seq, width] -> [batch, heads, seq, head_width]."""
        found: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return found

    def _join(self, x: Tensor) -> Tensor:
        """[batch, heads, seq, head_width] -> [batch, seq, width]."""
        return x.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear maps around the activation, wider inside."""

    def __init__(self, width: int, mlp_ratio: float, activation: str) -> None:
        super().__init__()
        inside = round(width * mlp_ratio)
        self.c_fc = nn.Linear(width, inside)
        self.c_proj = nn.Linear(inside, width)
        self.activation = ACTIVATION_FUNCTIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c_proj(self.activation(self.c_fc(x)))
        return found


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: VitConfig | TextConfig, activation: str) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.heads)
        self.ln_1 = LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp_ratio, activation)
        self.ln_2 = LayerNorm(config.width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        return self.finish(x, self.attn.mix(self.attn.project(self.ln_1(x), "qkv"), causal))

    def pooled(self, x: Tensor, position: Tensor, causal: bool) -> Tensor:
        """[batch, seq, width] -> [batch, width]: the block's output at `position` alone."""
        normed, rows = self.ln_1(x), torch.arange(len(x), device=x.device)
        asking = self.attn.project(normed[rows, position], "q")
        kv = self.attn.project(normed, "kv")
        mixed = self.attn.mix_pooled(asking, kv, position if causal else None)
        return self.finish(x[rows, position], mixed)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Does what comes after attention; each of [..., width]."""
        x = x + self.attn.out_proj(mixed)
        found: Tensor = x + self.mlp(self.ln_2(x))
        return found


class Transformer(nn.Module):
    """A stack of blocks that returns one token of each row."""

    def __init__(self, config: VitConfig | TextConfig, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(config, activation) for _ in range(config.layers))
        self.recompute = False  # in training: keep no activations inside a block

    @property
    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return [cast(Block, block) for block in self.resblocks]

    def forward(self, x: Tensor, position: Tensor, causal: bool = False) -> Tensor:
        """Maps [batch, seq, width] to [batch, width], the last block's output at `position`."""
        *body, last = self.blocks
        for block in body:
            x = recomputed(block, block, x, causal) if self.recompute else block(x, causal)
        return last.pooled(x, position, causal)


class VisionTransformer(nn.Module):
    """ViT image tower: patches, class token, pooled by the class token."""

    def __init__(self, config: VitConfig, embed_dim: int, activation: str) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(config, activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps [batch, 3, size, size] to [batch, embed_dim]."""
        x = self.conv1(pixels).flatten(2).transpose(1, 2)  # [batch, patches, width]
        start = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([start, x], dim=1) + self.positional_embedding.to(x.dtype)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        found: Tensor = self.ln_post(self.transformer(self.ln_pre(x), first)) @ self.proj
        return found


class Clip(nn.Module):
    """The two towers and their temperature.

    A freshly built model has the paper's random initialisation; `clip_core.load` fills it from a
    checkpoint instead.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.visual: nn.Module
        if isinstance(config.vision, VitConfig):
            self.visual = VisionTransformer(config.vision, config.embed_dim, config.activation)
        else:
            self.visual = ModifiedResNet(config.vision, config.embed_dim)
        self.transformer = Transformer(text, config.activation)
        # `nn.Embedding(...)` would draw its weights; on the meta device that makes torch import its
        # compiler: a second and 80 MB.
        table = torch.empty(text.vocab_size, text.width)
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.ln_final = LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        # Statistics come from the config, not from the checkpoint; on the processor even when the
        # weights are built without storage.
        for name in ("mean", "std"):
            values = torch.tensor(getattr(config, name), device="cpu").view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the matrix products."""
        return self.text_projection.dtype

    def normalize_pixels(self, pixels: Tensor) -> Tensor:
        """Scales uint8 pixels to [0, 1] and standardises them; float pixels pass unchanged."""
        if pixels.dtype == torch.uint8:
            pixels = (pixels.float() / 255 - self.mean) / self.std
        return pixels.to(self.dtype)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeds images.

        Args:
            pixels: [batch, 3, size, size] uint8 as decoded, or float already standardised.
            normalize: whether to scale each embedding to unit L2 norm.

        Returns:
            [batch, embed_dim] in the model's precision; float32 when normalised.
        """
        features = self.visual(self.normalize_pixels(pixels))
        return l2_normalize(features) if normalize else features

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Embeds token rows, pooled at the first position of the largest id (the end token).

        Args:
            tokens: [batch, context_length] integer ids.
            normalize: whether to scale each embedding to unit L2 norm.

        Returns:
            [batch, embed_dim] in the model's precision; float32 when normalised.
        """
        if not len(tokens):
            return self.text_projection.new_zeros(0, self.config.embed_dim)
        end = tokens.argmax(dim=-1)
        tokens = tokens[:, : int(end.max()) + 1]
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        pooled = self.transformer(x.to(self.dtype), end, causal=True)
        features = self.ln_final(pooled) @ self.text_projection
        return l2_normalize(features) if normalize else features

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits_per_image [images, texts] and logits_per_text, its transpose."""
        image = self.encode_image(pixels, normalize=True)
        text = self.encode_text(tokens, normalize=True)
        logits_per_image = self.logit_scale.exp() * image @ text.T
        return logits_per_image, logits_per_image.T


def l2_normalize(features: Tensor) -> Tensor:
    """Scales rows [batch, dim] to unit L2 norm in float32, without an epsilon, as the original."""
    features = features.float()
    found: Tensor = features / features.norm(dim=-1, keepdim=True)
    return found
