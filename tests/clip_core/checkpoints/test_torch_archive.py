import argparse
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.torch_archive import is_archive, is_torchscript, read_archive


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.register_buffer("steps", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight.sum()


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.low = nn.Parameter(torch.ones(4).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Canary:
    """Writes a file when it is unpickled the careless way."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(Outer().state_dict(), path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archive_is_read_by_dotted_names(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.script(Outer()).save(str(path))
    tensors = read_archive(path)
    assert is_torchscript(path)
    assert set(tensors) == {"inner.weight", "inner.steps", "low"}
    assert torch.equal(tensors["inner.weight"].load(), torch.arange(6.0).view(2, 3))
    assert tensors["low"].load().dtype == torch.float16


def test_state_dict_is_read_without_loading_tensors_first(archive):
    tensors = read_archive(archive)
    assert not is_torchscript(archive)
    assert tensors["inner.weight"].shape == (2, 3)
    assert int(tensors["inner.steps"].load()) == 7


def test_nested_dicts_get_dotted_names(tmp_path):
    path = tmp_path / "nested.pt"
    torch.save({"state_dict": OrderedDict(a=torch.ones(1)), "epoch": 3, "name": "x"}, path)
    assert set(read_archive(path)) == {"state_dict.a"}


def test_views_and_transposes_keep_their_values(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    torch.save({"t": base.T, "row": base[1]}, tmp_path / "views.pt")
    tensors = read_archive(tmp_path / "views.pt")
    assert torch.equal(tensors["t"].load(), base.T)
    assert torch.equal(tensors["row"].load(), base[1])


def test_notes_of_a_training_program_are_no_obstacle(tmp_path):
    notes = {"args": argparse.Namespace(lr=1e-3), "best": np.float64(0.5), "size": torch.Size([2])}
    torch.save({"model": {"logit_scale": torch.ones(())}, **notes}, tmp_path / "w.pt")
    assert set(read_archive(tmp_path / "w.pt")) == {"logit_scale"}


def test_canary_pickle_is_refused_and_leaves_no_trace(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.pt"
    torch.save({"weight": Canary(str(trace))}, path)
    with pytest.raises(CheckpointError, match="names .*system, which is not data; nothing was run"):
        read_archive(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_builtins_are_refused(tmp_path, name):
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps(__builtins__[name] if isinstance(
            __builtins__, dict) else getattr(__builtins__, name)))  # fmt: skip
    with pytest.raises(CheckpointError, match=f"builtins.{name}"):
        read_archive(path)


def test_flipped_bit_in_a_storage_is_noticed(archive):
    data = bytearray(archive.read_bytes())
    at = data.find(torch.arange(6.0).numpy().tobytes())
    data[at + 5] ^= 1
    archive.write_bytes(data)
    with pytest.raises(CheckpointError, match="weights.pt is damaged"):
        read_archive(archive)["inner.weight"].load()


def test_compressed_storages_are_read_as_well(archive, tmp_path):
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(archive) as stored, zipfile.ZipFile(packed, "w") as file:
        for member in stored.infolist():
            kind = zipfile.ZIP_DEFLATED if "/data/" in member.filename else zipfile.ZIP_STORED
            file.writestr(member.filename, stored.read(member), kind)
    weight = read_archive(packed)["inner.weight"].load()
    assert torch.equal(weight, torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_archive_is_no_archive(archive, share):
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    assert not is_archive(archive)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"garbage", b"\x80\x02}q\x00."])
def test_damaged_pickle_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", content)
    if content.endswith(b"."):
        assert read_archive(path) == {}
        return
    with pytest.raises(CheckpointError, match="bad.pt is damaged.*download it again") as error:
        read_archive(path)
    assert "\n" not in str(error.value)


def test_zip_without_a_pickle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="no data.pkl"):
        read_archive(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore")
def test_lists_of_a_scripted_convolution_are_no_obstacle(tmp_path):
    convolution = nn.Conv2d(1, 2, 3, padding=1)
    torch.jit.script(convolution).save(str(tmp_path / "script.pt"))
    tensors = read_archive(tmp_path / "script.pt")
    assert torch.equal(tensors["weight"].load(), convolution.weight)


def test_slice_does_not_keep_what_it_was_cut_from(tmp_path):
    torch.save({"row": torch.zeros(1000, 4)[1]}, tmp_path / "slice.pt")
    assert read_archive(tmp_path / "slice.pt")["row"].load().untyped_storage().nbytes() == 16


def test_tensor_larger_than_its_storage_is_refused(tmp_path):
    torch.save({"huge": torch.ones(1).expand(1 << 40)}, tmp_path / "huge.pt")
    with pytest.raises(RuntimeError, match="its storage 1"):
        read_archive(tmp_path / "huge.pt")["huge"].load()


def test_zip_bomb_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", bytes(1 << 24))
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_archive(tmp_path / "bomb.pt")
