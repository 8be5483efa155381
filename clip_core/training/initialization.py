"""Random initialisation of a model to be trained, after Radford et al. 2021 and its release."""

from __future__ import annotations

import torch
from torch import nn

from clip_core.config import ClipConfig
from clip_core.model import Clip, Transformer, VisionTransformer
from clip_core.resnet import Bottleneck, ModifiedResNet


@torch.no_grad()
def new_model(config: ClipConfig, seed: int) -> Clip:
    """Builds a model with the paper's random weights; the same seed gives the same weights."""
    torch.manual_seed(seed)  # before building: convolutions keep torch's own initialisation
    model = Clip(config)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    nn.init.normal_(model.positional_embedding, std=0.01)
    nn.init.normal_(model.text_projection, std=model.config.text.width**-0.5)
    _initialize_transformer(model.transformer, model.config.text.width)
    if isinstance(model.visual, ModifiedResNet):
        _initialize_resnet(model.visual)
    elif isinstance(model.visual, VisionTransformer):
        _initialize_vit(model.visual)
    return model


def _initialize_transformer(transformer: Transformer, width: int) -> None:
    """Scales what is added to the residual stream down with depth."""
    attention_std = width**-0.5
    residual_std = attention_std * (2 * len(transformer.resblocks)) ** -0.5
    for block in transformer.blocks:
        nn.init.normal_(block.attn.in_proj_weight, std=attention_std)
        nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=residual_std)
        nn.init.zeros_(block.attn.out_proj.bias)


def _initialize_vit(visual: VisionTransformer) -> None:
    std = visual.proj.shape[0] ** -0.5
    for parameter in (visual.class_embedding, visual.positional_embedding, visual.proj):
        nn.init.normal_(parameter, std=std)
    _initialize_transformer(visual.transformer, visual.proj.shape[0])


def _initialize_resnet(visual: ModifiedResNet) -> None:
    pool = visual.attnpool
    std = pool.c_proj.in_features**-0.5
    for parameter in (
        pool.positional_embedding,
        pool.q_proj.weight,
        pool.k_proj.weight,
        pool.v_proj.weight,
        pool.c_proj.weight,
    ):
        nn.init.normal_(parameter, std=std)
    for module in visual.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)  # every block starts as the identity
