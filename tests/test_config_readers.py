import copy
from dataclasses import replace

import pytest
import torch
from conftest import random_clip

from clip_core.config import ResNetConfig
from clip_core.config_readers import (
    config_from_hugging_face,
    config_from_open_clip,
    config_from_shapes,
)
from clip_core.lazy_tensor import CheckpointError, LazyTensor
from clip_core.model import Clip
from clip_core.saving import hugging_face_config, open_clip_config
from clip_core.variants import PUBLISHED, VARIANTS


def shapes_of(config):
    with torch.device("meta"):
        state = Clip(config).state_dict()
    return {n: LazyTensor(tuple(t.shape), torch.zeros(1).clone) for n, t in state.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_tell_every_variant(name):
    expected = VARIANTS[name]
    assert config_from_shapes(shapes_of(expected), expected.activation) == expected


def test_head_counts_of_large_vits_do_not_depend_on_the_image_size():
    h14 = VARIANTS["ViT-H-14"]
    larger = replace(h14, vision=replace(h14.vision, image_size=378))
    assert config_from_shapes(shapes_of(larger), "gelu") == larger
    assert larger.vision.heads == 16


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("logit_bias", "the bias of SigLIP"),
        ("text_decoder.resblocks.0.ln_1.weight", "the text decoder of CoCa"),
        ("visual.trunk.cls_token", "an image tower of timm"),
        ("visual.attn_pool.query", "an attentional pooling"),
        ("transformer.embeddings.word_embeddings.weight", "a text tower of Hugging Face"),
    ],
)
def test_weights_beyond_the_design_are_refused_by_name(name, message):
    tensors = shapes_of(VARIANTS["tiny-vit"]) | {name: LazyTensor((1,), torch.zeros(1).clone)}
    with pytest.raises(CheckpointError, match=message):
        config_from_shapes(tensors, "gelu")


@pytest.mark.parametrize("name", VARIANTS)
def test_open_clip_document_round_trips(name):
    assert config_from_open_clip(open_clip_config(VARIANTS[name])) == VARIANTS[name]


def test_hugging_face_document_round_trips(tokenizer):
    config = random_clip("tiny-vit", tokenizer).config
    assert config_from_hugging_face(hugging_face_config(config, tokenizer), {}) == config


def test_hugging_face_has_no_resnet(tokenizer):
    with pytest.raises(ValueError, match="no ResNet CLIP"):
        hugging_face_config(random_clip("tiny-rn", tokenizer).config, tokenizer)


def test_hugging_face_defaults_are_vit_b_32():
    assert config_from_hugging_face({}, {}) == PUBLISHED["ViT-B/32"]


def test_legacy_hugging_face_dict_wins():
    document = {
        "text_config": {"num_hidden_layers": 3},
        "text_config_dict": {"num_hidden_layers": 5},
    }
    assert config_from_hugging_face(document, {}).text.layers == 5
    document["text_config_dict"] = None
    assert config_from_hugging_face(document, {}).text.layers == 3


def test_statistics_come_from_the_preprocessor():
    found = config_from_hugging_face({}, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    assert found.mean == (0.5, 0.5, 0.5)


def test_open_clip_without_quick_gelu_is_gelu():
    document = open_clip_config(VARIANTS["tiny-rn"])
    del document["model_cfg"]["quick_gelu"]
    assert config_from_open_clip(document).activation == "gelu"


def test_head_width_decides_the_heads():
    document = open_clip_config(VARIANTS["tiny-vit"])
    document["model_cfg"]["vision_cfg"]["head_width"] = 32
    assert config_from_open_clip(document).vision.heads == 4
    document = open_clip_config(VARIANTS["tiny-rn"])
    document["model_cfg"]["vision_cfg"]["head_width"] = 128
    vision = config_from_open_clip(document).vision
    assert isinstance(vision, ResNetConfig) and vision.heads == 4


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("model_cfg", "init_logit_bias", -10),
        ("model_cfg", "multimodal_cfg", {"width": 512}),
        ("vision_cfg", "timm_model_name", "vit_base"),
        ("vision_cfg", "attentional_pool", True),
        ("vision_cfg", "pool_type", "avg"),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "pool_type", "last"),
        ("text_cfg", "embed_cls", True),
        ("preprocess_cfg", "resize_mode", "squash"),
        ("preprocess_cfg", "interpolation", "bilinear"),
    ],
)
def test_variants_beyond_the_design_are_refused_by_name(where, name, value):
    document = copy.deepcopy(open_clip_config(VARIANTS["tiny-vit"]))
    section = document["model_cfg"]
    section = {"model_cfg": section, "preprocess_cfg": document["preprocess_cfg"]}.get(
        where, section.get(where)
    )
    section[name] = value
    with pytest.raises(CheckpointError, match=f"{name} .*not supported"):
        config_from_open_clip(document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model_type": "siglip"}, "expected a model of type 'clip', got 'siglip'"),
        ({"text_config": {"hidden_act": "gelu_new"}}, "one `hidden_act`.*gelu_new"),
        ({"text_config": {"hidden_act": "gelu"}}, "in both towers"),
        ({"text_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps 1e-06, which is not supported"),
        ({"vision_config": {"hidden_size": "wide"}}, "does not describe a CLIP"),
    ],
)
def test_hugging_face_variants_are_refused(document, message):
    with pytest.raises(CheckpointError, match=message):
        config_from_hugging_face(document, {})


@pytest.mark.parametrize("document", [{}, {"model_cfg": {}}, {"model_cfg": {"vision_cfg": None}}])
def test_incomplete_open_clip_document_is_refused(document):
    with pytest.raises(CheckpointError, match="open_clip_config.json does not describe a CLIP"):
        config_from_open_clip(document)


def test_weights_of_another_family_are_refused():
    tensors = {"encoder.weight": LazyTensor((3, 3), torch.zeros(3, 3).clone)}
    with pytest.raises(CheckpointError, match="expected the weights of a CLIP"):
        config_from_shapes(tensors, "gelu")
