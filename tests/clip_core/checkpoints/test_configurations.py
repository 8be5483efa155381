import copy
import re
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from clip_core.checkpoints.descriptions.hugging_face import config_from_hugging_face
from clip_core.checkpoints.descriptions.open_clip import config_from_open_clip
from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensor
from clip_core.checkpoints.saving import hugging_face_config, open_clip_config
from clip_core.checkpoints.state_dict import config_from_shapes
from clip_core.config import OPENAI_MEAN, Resizing, ResNetConfig
from clip_core.model import Clip
from clip_core.variants import PUBLISHED, VARIANTS
from making import random_clip


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


def test_empty_legacy_hugging_face_dict_means_the_defaults():
    document = {"text_config": {"num_hidden_layers": 3}, "text_config_dict": {}}
    assert config_from_hugging_face(document, {}).text.layers == 12


# What releases of transformers write, and what other programs add, without effect on embeddings.
HARMLESS = {
    "_name_or_path": "/data/clip",
    "architectures": ["CLIPModel"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "diversity_penalty": 0.0,
    "dropout": 0.1,
    "id2label": {"0": "LABEL_0"},
    "initializer_factor": 1.0,
    "length_penalty": 1.0,
    "max_length": 20,
    "num_beams": 1,
    "pad_token_id": 1,
    "projection_dim": 64,
    "return_dict": True,
    "tie_word_embeddings": True,
    "top_k": 50,
    "torch_dtype": "float16",
    "use_bfloat16": False,
    "some_new_switch": False,
    "some_new_list": [],
}


def test_settings_without_effect_are_no_reason_to_refuse():
    towers = {name: dict(HARMLESS) for name in ("text_config", "vision_config")}
    document = HARMLESS | {"projection_dim": 512, "logit_scale_init_value": 2.6592} | towers
    document["text_config"]["eos_token_id"] = 2  # of old files: pool at the largest id
    document["vision_config"]["image_size"] = [224, 224]
    assert config_from_hugging_face(document, {}) == PUBLISHED["ViT-B/32"]


@pytest.mark.parametrize("tower", ["text_config", "vision_config", "text_config_dict", None])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_theta", 10000),
        ("pruned_heads", {"0": [1]}),
        ("use_head_gate", True),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("auto_map", {"AutoModel": "modeling.Other"}),
    ],
)
def test_unknown_settings_of_hugging_face_are_refused_by_name(tower, name, value):
    document = {tower: {name: value}} if tower else {name: value}
    with pytest.raises(CheckpointError, match=rf"config.json.* has {name} .*not supported"):
        config_from_hugging_face(document, {})


@pytest.mark.parametrize(
    "text", [{"eos_token_id": 49406}, {"vocab_size": 1000}, {"eos_token_id": [49407]}]
)
def test_end_token_that_is_not_the_last_is_refused(text):
    with pytest.raises(CheckpointError, match="has eos_token_id .*; expected .*, the last"):
        config_from_hugging_face({"text_config": text}, {})


def test_statistics_come_from_the_preprocessor():
    found = config_from_hugging_face({}, {"image_mean": [0.5] * 3, "image_std": 0.25})
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert config_from_hugging_face({}, {"image_mean": None}).mean == OPENAI_MEAN


def test_square_that_is_meant_by_a_number_is_refused():
    with pytest.raises(CheckpointError, match="has size 224, which is not supported"):
        config_from_hugging_face({}, {"size": 224, "default_to_square": True})


@pytest.mark.parametrize(
    ("preprocess", "resizing", "mean"),
    [
        ({}, Resizing(), OPENAI_MEAN),
        (
            {"resize_mode": "squash", "interpolation": "bicubic", "mean": 0.5, "size": 378},
            Resizing("squash"),
            (0.5, 0.5, 0.5),
        ),
        (
            {
                "resize_mode": "longest",
                "interpolation": "bilinear",
                "fill_color": 127,
                "mean": None,
            },
            Resizing("longest", "bilinear", 127),
            OPENAI_MEAN,
        ),
        ({"interpolation": "random", "mode": "RGB", "mean": 0}, Resizing(), OPENAI_MEAN),
        ({"resize_mode": None, "fill_color": None}, Resizing(), OPENAI_MEAN),
    ],
)
def test_preprocessing_of_open_clip_is_honoured(preprocess, resizing, mean):
    document = open_clip_config(VARIANTS["tiny-vit"])
    document["preprocess_cfg"] = preprocess
    found = config_from_open_clip(document)
    assert (found.resizing, found.mean) == (resizing, mean)
    assert config_from_open_clip(open_clip_config(found)) == found


def test_settings_of_open_clip_without_effect_are_no_reason_to_refuse():
    document = open_clip_config(VARIANTS["tiny-vit"])
    model = document["model_cfg"]
    model |= {"custom_text": True, "init_logit_scale": 2.6592, "nonscalar_logit_scale": True}
    model["vision_cfg"] |= {"patch_dropout": 0.5, "timm_drop": 0.1, "attn_pooler_heads": 8,
                            "output_tokens": True, "act_kwargs": {}, "image_size": [64, 64],
                            "patch_size": [8, 8]}  # fmt: skip
    model["text_cfg"] |= {"hf_proj_type": "mlp", "pad_id": 0, "eos_id": 2, "dropout": 0.1,
                          "norm_kwargs": {"eps": 1e-5}, "tokenizer_kwargs": {}}  # fmt: skip
    assert config_from_open_clip(document) == VARIANTS["tiny-vit"]
    model["text_cfg"] |= {"hf_tokenizer_name": "CLIPTokenizer"}
    model["text_cfg"] |= {"tokenizer_kwargs": {"clean": "whitespace"}}
    assert config_from_open_clip(document) == VARIANTS["tiny-vit"]
    del model["text_cfg"]["hf_tokenizer_name"]  # open_clip's own would keep capitals then
    with pytest.raises(CheckpointError, match="tokenizer_kwargs .*not supported"):
        config_from_open_clip(document)


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
        ("text_cfg", "tokenizer_kwargs", {"clean": "canonicalize"}),
        ("text_cfg", "hf_tokenizer_name", "bert-base-uncased"),
        ("text_cfg", "tokenizer_mode", "clips"),
        ("text_cfg", "norm_kwargs", {"eps": 1e-6}),
        ("text_cfg", "act_kwargs", {"approximate": "tanh"}),
        ("vision_cfg", "scale_heads", True),
        ("vision_cfg", "rope", True),
        ("model_cfg", "text_pooling", "mean"),
        ("preprocess_cfg", "pad", 3),
        ("preprocess_cfg", "resize_mode", "crop"),
        ("preprocess_cfg", "interpolation", "nearest"),
        ("preprocess_cfg", "mode", "L"),
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
        ({"vision_config": {"hidden_size": 0}}, "`hidden_size` must be a positive int, got 0"),
        ({"text_config": {"hidden_size": 0}}, "`hidden_size` must be a positive int, got 0"),
        ({"text_config": "tiny"}, "config.json does not describe a CLIP"),
    ],
)
def test_hugging_face_variants_are_refused(document, message):
    with pytest.raises(CheckpointError, match=message):
        config_from_hugging_face(document, {})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resample": 3, "do_resize": True, "do_center_crop": True, "rescale_factor": 1 / 255},
        {"size": 224, "crop_size": 224},
        {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
        {"size": None, "crop_size": {"shortest_edge": 224}, "do_convert_rgb": False},
        {"size": {"shortest_edge": 224, "longest_edge": None}, "rescale_factor": 0.0039215687},
        {"feature_extractor_type": "CLIPFeatureExtractor", "do_pad": None, "use_fast": True},
        {"image_processor_type": "CLIPImageProcessorFast", "_valid_processor_keys": ["images"]},
        {"processor_class": "CLIPProcessor", "default_to_square": False, "do_pad": False},
    ],
)
def test_preprocessing_of_the_original_is_accepted(settings):
    assert config_from_hugging_face({}, settings) == PUBLISHED["ViT-B/32"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resample", 2),
        ("resample", 0),
        ("do_resize", False),
        ("do_center_crop", False),
        ("do_normalize", False),
        ("do_rescale", False),
        ("rescale_factor", 1 / 127.5),
        ("size", 336),
        ("size", {"shortest_edge": 256}),
        ("size", {"shortest_edge": 224, "longest_edge": 500}),
        ("size", {"height": 224, "width": 224}),
        ("crop_size", 336),
        ("crop_size", {"height": 224, "width": 336}),
        ("crop_size", {"shortest_edge": 336}),
        ("crop_size", [224, 224]),
        ("do_pad", True),
        ("do_flip_channel_order", True),
        ("size_divisor", 32),
        ("offset", 0),
        ("use_square_size", True),
        ("image_processor_type", "SiglipImageProcessor"),
        ("image_processor_type", "ViTImageProcessor"),
    ],
)
def test_other_preprocessing_is_refused_by_name(name, value):
    message = (
        f"preprocessor_config.json has {name} {re.escape(repr(value))}, which is not supported"
    )
    with pytest.raises(CheckpointError, match=message):
        config_from_hugging_face({}, {name: value})


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("vision_cfg", "head_width", 0, "`head_width` must be a positive int, got 0"),
        ("vision_cfg", "image_size", [], "`image_size` must be one number or two equal ones"),
        ("vision_cfg", "image_size", [64, 96], r"two equal ones, got \[64, 96\]"),
        ("vision_cfg", "layers", [], "`layers` must be four positive ints"),
        ("text_cfg", "heads", 0, "`heads` must be a positive int, got 0"),
    ],
)
def test_sizes_that_no_model_has_are_one_sentence(section, name, value, message):
    document = copy.deepcopy(open_clip_config(VARIANTS["tiny-vit"]))
    document["model_cfg"][section][name] = value
    with pytest.raises(CheckpointError, match=message):
        config_from_open_clip(document)


def test_square_of_open_clip_is_one_size():
    document = copy.deepcopy(open_clip_config(VARIANTS["tiny-vit"]))
    document["model_cfg"]["vision_cfg"]["image_size"] = [64, 64]
    assert config_from_open_clip(document).vision.image_size == 64


@pytest.mark.parametrize("junk", [0, -1, 1.5, "x", [], {}, [[]], {"a": 1}, True, 10**400, 1e999])
def test_junk_in_a_document_is_one_sentence_or_a_model(tokenizer, junk):
    config = random_clip("tiny-vit", tokenizer).config
    for read, document in (
        (config_from_open_clip, open_clip_config(config)),
        (lambda found: config_from_hugging_face(found, {}), hugging_face_config(config, tokenizer)),
        (lambda found: config_from_hugging_face({}, found), {"size": 224, "image_mean": [0.5] * 3}),
    ):
        for changed in spoilt(document, junk):
            with suppress(CheckpointError):
                read(changed)


def spoilt(document, junk):
    """Yields copies of a document, each with junk in the place of one of its values."""
    for name, value in document.items():
        yield document | {name: junk}
        if isinstance(value, dict):
            yield from (document | {name: inner} for inner in spoilt(value, junk))


@pytest.mark.parametrize("document", [{}, {"model_cfg": {}}, {"model_cfg": {"vision_cfg": None}}])
def test_incomplete_open_clip_document_is_refused(document):
    with pytest.raises(CheckpointError, match="open_clip_config.json does not describe a CLIP"):
        config_from_open_clip(document)


def test_weights_of_another_family_are_refused():
    tensors = {"encoder.weight": LazyTensor((3, 3), torch.zeros(3, 3).clone)}
    with pytest.raises(CheckpointError, match="expected the weights of a CLIP"):
        config_from_shapes(tensors, "gelu")
