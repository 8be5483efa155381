import json
import logging
import shutil

import pytest

import clip_core
from clip_core.checkpoints.lazy_tensor import CheckpointError

NESTED, OLD = "processor_config.json", "preprocessor_config.json"


@pytest.fixture
def model(vit_dir, tmp_path):
    """A directory of Hugging Face's without a description of its pixels."""
    directory = shutil.copytree(vit_dir, tmp_path / "model")
    (directory / "open_clip_config.json").unlink()
    (directory / OLD).unlink()
    return directory


def write(directory, name, **settings):
    content = settings if name == OLD else {"image_processor": settings, "processor_class": "X"}
    (directory / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", [NESTED, OLD])
def test_statistics_are_those_of_the_file(model, name):
    write(model, name, image_mean=[0.5] * 3, image_std=[0.25] * 3, size={"shortest_edge": 64})
    found = clip_core.load(model)
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)
    assert found.preprocessing.std == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("name", [NESTED, OLD])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resample", 2),
        ("do_center_crop", False),
        ("size", {"height": 64, "width": 64}),
        ("do_pad", True),
    ],
)
def test_other_pixels_are_refused_by_file_and_name(model, name, key, value):
    write(model, name, **{key: value})
    with pytest.raises(CheckpointError, match=f"{name} has {key} .*not supported"):
        clip_core.load(model)


def test_file_of_transformers_5_wins_where_it_holds_an_image_processor(model):
    write(model, OLD, image_mean=[0.25] * 3)
    write(model, NESTED, image_mean=[0.5] * 3)
    assert clip_core.load(model).config.mean == (0.5, 0.5, 0.5)
    (model / NESTED).write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert clip_core.load(model).config.mean == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("content", ["", "[]", '{"image_processor": 3}', '{"image_processor": []}'])
def test_damaged_file_is_refused(model, content):
    (model / NESTED).write_text(content)
    with pytest.raises(CheckpointError, match=NESTED):
        clip_core.load(model)


def test_directory_without_either_says_which_statistics_it_takes(model, caplog):
    with caplog.at_level(logging.WARNING):
        clip_core.load(model)
    [line] = caplog.messages
    assert f"model has neither {NESTED} nor {OLD}" in line
    assert "mean (0.48145466, 0.4578275, 0.40821073) and std (0.26862954" in line
    caplog.clear()
    write(model, NESTED)
    with caplog.at_level(logging.WARNING):
        clip_core.load(model)
    assert not caplog.messages


def test_adapter_beside_a_model_is_refused(model, vit_dir):
    for directory in (model, shutil.copytree(vit_dir, model.parent / "open")):
        (directory / "adapter_config.json").write_text("{}")
        for path in (directory, directory / "model.safetensors"):
            with pytest.raises(CheckpointError, match="has an adapter .*merge it into"):
                clip_core.load(path)
