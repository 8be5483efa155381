import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import clip_core
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.reading import read_checkpoint
from clip_core.checkpoints.saving import save_model_directory
from clip_core.config import Resizing
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS
from making import random_clip

WEIGHTS = "open_clip_model.safetensors"


def same(model, other):
    """Compares the towers of two models that have one architecture."""
    weights = zip(model.clip.state_dict().values(), other.clip.state_dict().values(), strict=True)
    return model.config == other.config and all(torch.equal(one, two) for one, two in weights)


def bare(directory, tmp_path, name=WEIGHTS):
    """Copies weights alone."""
    return shutil.copy(directory / name, tmp_path / "bare.safetensors")


def test_bare_state_dict_without_an_activation_is_refused(model_dir, tmp_path):
    with pytest.raises(
        CheckpointError, match="does not tell its activation; pass `quick_gelu` as `activation`"
    ):
        clip_core.load(bare(model_dir, tmp_path))


def test_bare_file_of_hugging_face_names_its_directory_as_the_remedy(vit_dir, tmp_path):
    path = bare(vit_dir, tmp_path, "model.safetensors")
    for flags in ({}, {"activation": "gelu"}, {"arch": "ViT-B-32"}):
        with pytest.raises(
            CheckpointError, match="name the model's directory, with its config.json"
        ):
            clip_core.load(path, **flags)


def test_file_inside_a_model_directory_takes_the_description_beside_it(tmp_path, tokenizer):
    base = random_clip("tiny-vit", tokenizer)
    config = replace(
        base.config, mean=(0.5, 0.5, 0.5), activation="gelu", resizing=Resizing("squash")
    )
    save_model_directory(tmp_path, new_model(config, 0), tokenizer)
    whole = clip_core.load(tmp_path)
    for name in (WEIGHTS, "model.safetensors"):
        found = clip_core.load(tmp_path / name)
        assert found.config == config and same(whole, found)
        assert found.tokenizer.identity == tokenizer.identity
    told = clip_core.load(tmp_path / WEIGHTS, activation="quick_gelu")
    assert told.config == replace(config, activation="quick_gelu")


def test_other_programs_config_beside_a_file_describes_nothing(model_dir, tmp_path):
    path = bare(model_dir, tmp_path)
    for content in ("{}", "[]", "junk", '{"model_type": "bert"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match="does not tell its activation"):
            clip_core.load(path)


@pytest.mark.parametrize(
    ("tower", "change"),
    [
        ("text tower of width 320", {"text": {"width": 320, "heads": 4}}),
        ("image tower of width 320", {"vision": {"width": 320, "heads": 4}}),
    ],
)
def test_heads_that_no_table_knows_are_asked_for(tmp_path, tokenizer, tower, change):
    config = random_clip("tiny-vit", tokenizer).config
    for name, sizes in change.items():
        config = replace(config, **{name: replace(getattr(config, name), **sizes)})
    save_model_directory(tmp_path / "model", new_model(config, 0), tokenizer)
    path = bare(tmp_path / "model", tmp_path)
    with pytest.raises(CheckpointError, match=f"how many heads their {tower} has"):
        clip_core.load(path, activation="quick_gelu")
    for name in ("open_clip_config.json", "merges.txt"):
        shutil.copy(tmp_path / "model" / name, tmp_path / name)
    assert same(clip_core.load(tmp_path / "model"), clip_core.load(path))


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("ViT-B/32", "quick_gelu"),
        ("ViT-L/14@336px", "quick_gelu"),
        ("ViT-B-32", "gelu"),
        ("ViT-B-32-quickgelu", "quick_gelu"),
        ("RN50-quickgelu", "quick_gelu"),
    ],
)
def test_names_of_openai_and_open_clip_imply_the_activation(model_dir, tmp_path, name, activation):
    found = read_checkpoint(bare(model_dir, tmp_path), arch=name)
    assert found.config == replace(VARIANTS[name], activation=activation)


@pytest.mark.parametrize("name", ["RN50", "RN50x64", "tiny-vit"])
def test_names_that_imply_no_activation_ask_for_it(model_dir, tmp_path, name):
    message = "activation; pass" if name == "tiny-vit" else f"pass `{name}-quickgelu` as `arch`"
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(bare(model_dir, tmp_path), arch=name)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(model_dir, tmp_path, kind):
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    state = load_file(copy / WEIGHTS)
    state["text_projection"] = torch.ones_like(state["text_projection"]).to(kind)
    torch.save(state, copy / "open_clip_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    kind = str(kind).removeprefix("torch.")
    with pytest.raises(
        CheckpointError, match=f"text_projection holds {kind}, expected floats|names"
    ):
        clip_core.load(copy)


def test_arch_says_what_shapes_do_not(model_dir):
    found = read_checkpoint(model_dir / WEIGHTS, arch="tiny-rn", activation="gelu")
    assert found.config.activation == "gelu"
    with pytest.raises(CheckpointError, match="unknown `arch` 'tiny'; expected one of RN50"):
        read_checkpoint(model_dir / WEIGHTS, arch="tiny")
