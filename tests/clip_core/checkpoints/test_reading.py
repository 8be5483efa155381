import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import clip_core
from clip_core.checkpoints import renaming, weight_files
from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensor
from clip_core.checkpoints.vocabulary import VocabularyError

WEIGHTS = "open_clip_model.safetensors"


def lazy(tensor):
    return LazyTensor(tuple(tensor.shape), lambda: tensor)


@pytest.fixture
def model(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "model")


@pytest.fixture
def hf_model(vit_dir, tmp_path):
    directory = shutil.copytree(vit_dir, tmp_path / "model")
    (directory / "open_clip_config.json").unlink()
    return directory


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


CHANGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "html": lambda data: b"<html>not found</html>",
    "other header": lambda data: b"\xff" * 8 + data[8:],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_damaged_safetensors_is_refused_in_one_line(model, change):
    damage(model / WEIGHTS, CHANGES[change])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors") as error:
        clip_core.load(str(model))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", CHANGES)
def test_damaged_torch_file_is_refused_in_one_line(model_dir, tmp_path, change):
    path = tmp_path / "weights.pt"
    torch.save(load_file(model_dir / WEIGHTS), path)
    damage(path, CHANGES[change])
    with pytest.raises(CheckpointError) as error:
        clip_core.load(str(path), activation="gelu", vocab=str(model_dir / "merges.txt"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["open_clip_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_json_is_refused(model, name, content):
    (model / "merges.txt").unlink()
    (model / name).write_bytes(content)
    with pytest.raises((CheckpointError, VocabularyError), match=name.split(".")[0]):
        clip_core.load(str(model))


@pytest.mark.parametrize("content", [b"", b"{", b"null"])
def test_damaged_hugging_face_config_is_refused(hf_model, content):
    (hf_model / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json"):
        clip_core.load(str(hf_model))


def test_directory_without_a_config_or_weights_is_refused(model, tmp_path):
    (model / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no weights in .*expected one of open_clip_model"):
        clip_core.load(str(model))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="it is not a model directory"):
        clip_core.load(str(tmp_path / "empty"))


def test_nan_weights_load_but_shapes_beyond_the_file_do_not(model):
    config = json.loads((model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 5
    (model / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="- missing transformer.resblocks.4"):
        clip_core.load(str(model))


def test_old_position_ids_are_ignored(hf_model):
    state = load_file(hf_model / "model.safetensors")
    for tower in ("text_model", "vision_model"):
        state[f"{tower}.embeddings.position_ids"] = torch.arange(3)[None]
    save_file(state, hf_model / "model.safetensors")
    clip_core.load(str(hf_model))


def test_hugging_face_bin_loads_like_safetensors(hf_model):
    expected = clip_core.load(str(hf_model))
    torch.save(load_file(hf_model / "model.safetensors"), hf_model / "pytorch_model.bin")
    (hf_model / "model.safetensors").unlink()
    found = clip_core.load(str(hf_model))
    tokens = found.tokenize(["a red circle"])
    assert torch.allclose(found.encode_text(tokens), expected.encode_text(tokens), atol=1e-6)


@pytest.mark.parametrize("old", [True, False])
def test_legacy_pickle_is_read_by_the_restricted_unpickler(model_dir, tmp_path, old):
    path = tmp_path / "weights.bin"
    state = load_file(model_dir / WEIGHTS)
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    model = clip_core.load(str(path), activation="gelu", vocab=str(model_dir / "merges.txt"))
    assert torch.equal(model.clip.text_projection, state["text_projection"])


def file_behind(tensor):
    """Returns the file that the memory of a tensor is mapped from, or None."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, name = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        if low <= tensor.data_ptr() < high:
            return Path(name) if name.startswith("/") else None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for Linux")
@pytest.mark.parametrize("name", [WEIGHTS, "weights.pt"])
def test_weights_of_full_precision_are_mapped_for_all_processes_of_a_machine(model, name):
    torch.save(load_file(model / WEIGHTS), model / "weights.pt")
    found = clip_core.load(str(model / name)).clip.token_embedding.weight
    assert file_behind(found) == model / name


def test_query_key_value_are_stacked_in_this_order():
    parts = {letter: torch.full((2, 2), float(i)) for i, letter in enumerate("qkv")}
    names = {
        f"text_model.encoder.layers.0.self_attn.{k}_proj.weight": lazy(v) for k, v in parts.items()
    }
    stacked = renaming.from_hugging_face(names)["transformer.resblocks.0.attn.in_proj_weight"]
    assert stacked.shape == (6, 2)
    assert stacked.load()[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_square_projection_is_transposed_by_its_name_alone():
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    theirs = renaming.from_hugging_face({"text_projection.weight": lazy(square)})
    ours = renaming.from_hugging_face({"text_projection": lazy(square)})
    assert torch.equal(theirs["text_projection"].load(), square.T)
    assert torch.equal(ours["text_projection"].load(), square)


def test_names_survive_the_way_to_hugging_face_and_back(vit_dir):
    state = load_file(vit_dir / WEIGHTS)
    back = renaming.from_hugging_face(
        {n: lazy(t) for n, t in renaming.to_hugging_face(state).items()}
    )
    assert set(back) == set(state)
    assert all(torch.equal(back[name].load(), state[name]) for name in state)


def test_model_directory_speaks_for_itself(model_dir):
    for flags in ({"arch": "ViT-B/32"}, {"activation": "gelu"}):
        with pytest.raises(CheckpointError, match="is a model directory, .* leave out `arch` and"):
            clip_core.load(str(model_dir), **flags)


def test_file_of_weights_is_opened_once_for_all_its_tensors(model_dir, monkeypatch):
    opened = []
    monkeypatch.setattr(
        weight_files, "safe_open", lambda path, **how: opened.append(path) or safe_open(path, **how)
    )
    assert len(weight_files.tensors_of(model_dir / "open_clip_model.safetensors")) > 10
    clip_core.load(model_dir)
    assert len(opened) == 2
