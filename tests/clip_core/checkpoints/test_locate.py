import json

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from safetensors.torch import load_file, save_file

import clip_core
from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.locate import available_models, local_model
from clip_core.checkpoints.published import SHA256
from clip_core.checkpoints.reading import needed_files

# What a model hub keeps beside what is needed.
CLUTTER = ("flax_model.msgpack", "tf_model.h5", "README.md", "model-00001-of-00002.bin")


def test_names_are_the_bundled_model_and_the_published_ones():
    assert available_models() == ["tiny", *SHA256]
    assert clip_core.available_models() == available_models()


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        (
            ["open_clip_config.json", "open_clip_pytorch_model.bin", "open_clip_model.safetensors"],
            ["open_clip_config.json", "open_clip_model.safetensors"],
        ),
        (
            ["config.json", "pytorch_model.bin", "model.safetensors", "merges.txt", "vocab.json"],
            ["config.json", "merges.txt", "model.safetensors", "vocab.json"],
        ),
        (
            ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"],
            ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        ([], []),
    ],
)
def test_only_what_is_read_is_needed(names, needed):
    assert needed_files([*names, *CLUTTER]) == needed


class Hub(MemoryFileSystem):
    """Stands for the filesystem of the Hugging Face hub, in memory."""

    protocol = "hf"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("hf://"))


@pytest.fixture
def hub(vit_dir, monkeypatch):
    monkeypatch.setattr(Hub, "store", {})
    filesystem = Hub(skip_instance_cache=True)
    for file in vit_dir.iterdir():
        filesystem.pipe_file(f"/org/model/{file.name}", file.read_bytes())
    for name in CLUTTER:
        filesystem.pipe_file(f"/org/model/{name}", b"?")
    monkeypatch.setitem(_registry, "hf", Hub)
    return filesystem


def test_directory_on_a_hub_is_copied_without_its_clutter_and_removed_again(hub, vit_dir):
    with local_model("hf://org/model") as path:
        assert path.name == "model"
        assert not {file.name for file in path.iterdir()} & set(CLUTTER)
    assert not path.exists()
    found = clip_core.load("hf://org/model").fingerprint
    assert found == clip_core.load(str(vit_dir)).fingerprint


def test_sharded_weights_are_copied_with_their_index(hub, vit_dir):
    state = load_file(vit_dir / "model.safetensors")
    names = sorted(state)
    halves = {"model-00001-of-00002.safetensors": names[::2],
              "model-00002-of-00002.safetensors": names[1::2]}  # fmt: skip
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "model.safetensors"):
        hub.rm(f"/org/model/{name}")
    weight_map = {}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, vit_dir.parent / file)
        hub.put_file(str(vit_dir.parent / file), f"/org/model/{file}")
        weight_map |= dict.fromkeys(part, file)
    index = json.dumps({"weight_map": weight_map}).encode()
    hub.pipe_file("/org/model/model.safetensors.index.json", index)
    found, expected = clip_core.load("hf://org/model"), clip_core.load(str(vit_dir))
    tokens = found.tokenize(["a red circle"])
    assert found.encode_text(tokens).allclose(expected.encode_text(tokens), atol=1e-6)


@pytest.mark.parametrize("uri", ["hf://org/absent", "nowhere://model", "memory://absent/model.pt"])
def test_absent_remote_model_is_one_sentence(hub, uri):
    with pytest.raises(CheckpointError, match=f"could not fetch {uri}") as error:
        clip_core.load(uri)
    assert "\n" not in str(error.value)


def test_error_of_a_store_s_own_kind_is_one_sentence(hub, monkeypatch):
    class NoCredentials(Exception):
        pass

    def refuse(*_, **__):
        raise NoCredentials("unable to locate credentials\nmore")

    monkeypatch.setattr(Hub, "isdir", refuse)
    with pytest.raises(CheckpointError) as error:
        clip_core.load("hf://org/model")
    assert str(error.value) == "could not fetch hf://org/model: unable to locate credentials"


def test_misspelt_name_gets_a_suggestion():
    with pytest.raises(CheckpointError, match="did you mean 'ViT-B/32'?"):
        clip_core.load("ViT-B-32")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("openai/clip-vit-base-patch32", "hf://openai/clip-vit-base-patch32"),
        (
            "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            "hf://laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        ),
        ("https://huggingface.co/org/model.v2/", "hf://org/model.v2"),
        ("local-dir:/models/b32", "/models/b32"),
    ],
)
def test_names_of_other_programs_get_the_hint(name, hint):
    with pytest.raises(CheckpointError, match=f"there is no model .*; did you mean '{hint}'"):
        clip_core.load(name)


def test_file_on_a_store_takes_the_description_beside_it(hub, vit_dir):
    found = clip_core.load("hf://org/model/open_clip_model.safetensors").fingerprint
    assert found == clip_core.load(str(vit_dir)).fingerprint
    with local_model("hf://org/model/merges.txt") as path:
        assert [file.name for file in path.parent.iterdir()] == ["merges.txt"]


def test_page_of_a_web_server_describes_nothing(hub, vit_dir):
    path = "/elsewhere/model.pt"
    hub.pipe_file(path, (vit_dir / "open_clip_model.safetensors").read_bytes())
    for name in ("open_clip_config.json", "config.json", "adapter_config.json"):
        hub.pipe_file(f"/elsewhere/{name}", b"<html>not found</html>")
    with local_model("hf:/" + path) as found:
        assert [file.name for file in found.parent.iterdir()] == ["model.pt"]


def test_processor_config_is_fetched_and_decides_the_pixels(hub):
    hub.rm("/org/model/open_clip_config.json")
    hub.rm("/org/model/preprocessor_config.json")
    processor = {"image_processor": {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}}
    hub.pipe_file("/org/model/processor_config.json", json.dumps(processor).encode())
    assert clip_core.load("hf://org/model").config.std == (0.25, 0.25, 0.25)
    hub.pipe_file("/org/model/adapter_config.json", b"{}")
    with pytest.raises(CheckpointError, match="model has an adapter"):
        clip_core.load("hf://org/model")


def test_cache_directory_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "clip_core.checkpoints.published._ADDRESS", "file:///nowhere/{sha256}/{file}"
    )
    with pytest.raises(CheckpointError, match=f"put it at {tmp_path}/ViT-B-32.pt"):
        clip_core.load("ViT-B/32", cache_dir=str(tmp_path))
