"""Holds pixels and embeddings to those of open_clip and transformers; see `golden/make_peers.py`."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import clip_core
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.config import Resizing
from clip_core.preprocess import Preprocess
from peer_models import (
    CAPTIONS,
    CASES,
    PHOTO,
    SIZE,
    formula_weights,
    write_hugging_face,
    write_open_clip,
)


@pytest.fixture(scope="module")
def peers(golden):
    return np.load(golden / "peers.npz")


@pytest.mark.parametrize(("mode", "kernel", "fill"), CASES)
def test_resizing_gives_the_pixels_of_open_clip(golden, peers, mode, kernel, fill):
    preprocess = Preprocess(SIZE, resizing=Resizing(mode, kernel, fill))
    prefix = f"open_clip {mode} {kernel} {fill}/"
    names = [name.removeprefix(prefix) for name in peers.files if name.startswith(prefix)]
    for name in names:
        pixels = preprocess.to_pixels(Image.open(golden / "images" / name))
        assert (pixels.transpose(1, 2, 0) == peers[prefix + name]).all(), name
    assert len(names) >= 13


def test_policy_hugging_face_gives_the_pixels_of_its_processor(golden, peers):
    prefix, unlike = "hugging_face/", 0
    names = [name.removeprefix(prefix) for name in peers.files if name.startswith(prefix)]
    for name in names:
        path = golden / "images" / name
        pixels = Preprocess(SIZE, policy="hugging_face").to_pixels(Image.open(path))
        assert (pixels == peers[prefix + name]).all(), name
        first = Preprocess(SIZE, policy="rgb_first").to_pixels(Image.open(path))
        unlike += bool((first != pixels).any())
    assert len(names) == 14 and unlike > 3


def embeddings_of(model, golden):
    image = model.preprocess(Image.open(golden / "images" / PHOTO))[None]
    tokens = model.tokenize(CAPTIONS)
    return [model.encode_image(image, normalize=True), model.encode_text(tokens, normalize=True)]


def largest_difference(model, golden, peers, library):
    expected = [peers[f"{library}/image"], peers[f"{library}/text"]]
    found = embeddings_of(model, golden)
    return max(np.abs(f.numpy() - e).max() for f, e in zip(found, expected, strict=True))


FORMS = {"open_clip": write_open_clip, "transformers": write_hugging_face}
WEIGHTS = {"open_clip": "open_clip_model.safetensors", "transformers": "model.safetensors"}


@pytest.fixture(params=FORMS)
def library(request):
    return request.param


@pytest.mark.parametrize("inside", [False, True], ids=["directory", "file in it"])
def test_embeddings_are_those_of_the_library_itself(golden, peers, tmp_path, library, inside):
    FORMS[library](tmp_path)
    model = clip_core.load(tmp_path / WEIGHTS[library] if inside else tmp_path)
    assert largest_difference(model, golden, peers, library) < 5e-6


def prefixed(prefix):
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


MOMENTS = {"state": {0: {"exp_avg": torch.ones(3)}}, "lr": 1e-3}
WRAPPINGS = {
    "module.": prefixed("module."),
    "model.clip.": prefixed("model.clip."),
    "_orig_mod.module.": prefixed("_orig_mod.module."),
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3, "optimizer": MOMENTS},
    "model": lambda weights: {"model": weights, "optimizer": MOMENTS},
    "list": lambda weights: [weights, MOMENTS],
    "lightning": lambda weights: {
        "state_dict": prefixed("clip.")(weights),
        "optimizer_states": [MOMENTS],
        "hyper_parameters": {"lr": 1e-3},
    },
    "ordered": lambda weights: OrderedDict(params=prefixed("net.")(weights)),
}


@pytest.mark.parametrize(
    ("wrapping", "name"),
    [(wrapping, "weights.pt") for wrapping in WRAPPINGS]
    + [(wrapping, "old.pt") for wrapping in ("module.", "list", "lightning")]
    + [(wrapping, "weights.safetensors") for wrapping in WRAPPINGS if wrapping.endswith(".")],
)
def test_wrapped_weights_give_the_same_embeddings(golden, peers, tmp_path, wrapping, name):
    write_open_clip(tmp_path)
    (tmp_path / WEIGHTS["open_clip"]).unlink()
    weights = {n: torch.from_numpy(value) for n, value in formula_weights().items()}
    wrapped = WRAPPINGS[wrapping](weights)
    if name.endswith(".safetensors"):
        save_file({n: tensor.numpy() for n, tensor in wrapped.items()}, tmp_path / name)
    else:
        torch.save(wrapped, tmp_path / name, _use_new_zipfile_serialization=name == "weights.pt")
    model = clip_core.load(tmp_path / name)
    assert largest_difference(model, golden, peers, "open_clip") < 5e-6


@pytest.mark.parametrize(
    ("wrapped", "places"),
    [
        (lambda w: {"model": w, "ema": w}, "2 models, as 'model', 'ema'"),
        (lambda w: prefixed("model.")(w) | prefixed("ema.")(w), "2 models, as 'model', 'ema'"),
        (lambda w: w | prefixed("ema.")(w), "2 models, as '', 'ema'"),
    ],
)
def test_two_models_in_a_file_are_not_chosen_from(tmp_path, wrapped, places):
    weights = {"logit_scale": torch.ones(()), "visual.proj": torch.ones(2, 2)}
    torch.save(wrapped(weights), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=places):
        clip_core.load(tmp_path / "weights.pt", activation="gelu")


def test_weights_beside_the_prefix_are_unexpected(tmp_path):
    write_open_clip(tmp_path)
    path = tmp_path / WEIGHTS["open_clip"]
    weights = prefixed("clip.")(formula_weights()) | {"head.weight": np.ones((2, 2), np.float32)}
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"\+ unexpected head.weight"):
        clip_core.load(tmp_path)


def test_description_decides_the_embeddings(golden, peers, tmp_path):
    """So that the tests above could fail."""
    write_open_clip(tmp_path)
    path = tmp_path / "open_clip_config.json"
    for section, name, value in (
        ("preprocess_cfg", "resize_mode", "shortest"),
        ("preprocess_cfg", "interpolation", "bicubic"),
        ("preprocess_cfg", "mean", [0.4] * 3),
        ("model_cfg", "quick_gelu", True),
    ):
        document = json.loads(path.read_text())
        document[section][name] = value
        path.write_text(json.dumps(document))
        model = clip_core.load(tmp_path)
        assert largest_difference(model, golden, peers, "open_clip") > 5e-5, name
        write_open_clip(tmp_path)
