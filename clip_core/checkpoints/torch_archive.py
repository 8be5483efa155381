"""Reads the zip archives of `torch.save` and of TorchScript without running anything in them.

The pickle inside may name tensors, storages, numbers, strings and containers. Classes of a
TorchScript archive become inert stand-ins that only hold attributes; every other global is refused.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_core.checkpoints.lazy_tensor import CheckpointError, LazyTensor, LazyTensors
from clip_core.checkpoints.wrapping import flat, innermost

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DAMAGE = (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError,
           TypeError, AttributeError, OverflowError, UnicodeDecodeError, RecursionError,
           NotImplementedError, OSError, RuntimeError, MemoryError, struct.error,
           zlib.error)  # fmt: skip
_LENGTHS_AT = 26  # in the header of a zip member: bytes of its name and of what follows it
_NOTES = {("_codecs", "encode"), ("argparse", "Namespace"), ("numpy", "dtype"),
          ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
          ("pathlib", "PosixPath"), ("torch", "device"), ("torch", "Size")}  # fmt: skip
# How TorchScript spells lists, such as the padding of a scripted convolution.
_LISTS = ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist")


def is_archive(path: Path) -> bool:
    """Tells whether a file is a zip archive, as torch has written since 1.6."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # an end of one, and nothing before it
        return False


def is_torchscript(path: Path) -> bool:
    """Tells whether an archive holds a TorchScript module; a plain state dict has no constants."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path) -> LazyTensors:
    """Lists the tensors of an archive by dotted name, whatever device they were saved on.

    Raises:
        CheckpointError: if the archive is damaged, or names anything but data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            prefix = _prefix(archive, path)
            with archive.open(f"{prefix}/data.pkl") as file:
                content = _DataUnpickler(file, path, prefix).load()
        return dict(innermost(_without_modules(content), path.name))
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise _damaged(path, error) from error


class _Module:
    """Stands in for a class of a TorchScript archive: holds attributes, does nothing."""

    def __init__(self, *args: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state)


class _Note:
    """Stands in for what training programs write beside weights: holds and does nothing."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _DataUnpickler(pickle.Unpickler):
    """Builds data only. `find_class` is the one door to code, so it names what may pass."""

    def __init__(self, file: BinaryIO | Any, path: Path, prefix: str) -> None:
        super().__init__(file)
        self._path = path
        self._prefix = prefix

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return _untagged
        if (module, name) in _NOTES:
            return _Note
        raise CheckpointError(
            f"{self._path.name} names {module}.{name}, which is not data; nothing was run; "
            "get the weights as safetensors or from a source you trust"
        )

    def persistent_load(self, pid: Any) -> partial[Tensor]:
        kind, dtype, key, _location, _size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        return partial(_read_storage, self._path, f"{self._prefix}/data/{key}", dtype)


def _rebuild_tensor(
    storage: partial[Tensor], offset: int, size: Any, stride: Any, *_: Any
) -> LazyTensor:
    if not isinstance(storage, partial):
        raise pickle.UnpicklingError(f"expected a storage, got {type(storage).__name__}")
    shape, steps = tuple(map(int, size)), tuple(map(int, stride))
    return LazyTensor(shape, lambda: _view(storage(), shape, steps, int(offset)))


def _view(storage: Tensor, shape: tuple[int, ...], steps: tuple[int, ...], offset: int) -> Tensor:
    view = storage.as_strided(shape, steps, offset)
    if view.numel() > storage.numel():
        raise RuntimeError(f"it has {view.numel()} values, its storage {storage.numel()}")
    # A slice must not keep all that it was cut from in memory.
    return view if view.numel() == storage.numel() else view.clone()


def _rebuild_parameter(data: LazyTensor, *_: Any) -> LazyTensor:
    return data


def _untagged(value: Any, _type: str) -> Any:
    return value


def _read_storage(path: Path, name: str, dtype: torch.dtype) -> Tensor:
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(name)
            if not member.file_size:
                return torch.empty(0, dtype=dtype)
            if member.compress_type == zipfile.ZIP_STORED:
                return torch.from_numpy(_mapped(path, member)).view(dtype)
            with archive.open(member) as file:
                return torch.frombuffer(bytearray(file.read()), dtype=dtype)
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _mapped(path: Path, member: zipfile.ZipInfo) -> NDArray[np.uint8]:
    """Maps what is stored as it is, as torch does: processes of a machine share its memory, and
    what is rounded to another precision is never in memory twice. Changes stay with the caller."""
    with path.open("rb") as file:
        file.seek(member.header_offset + _LENGTHS_AT)
        lengths = struct.unpack("<HH", file.read(4))
    start = member.header_offset + _LENGTHS_AT + 4 + sum(lengths)
    data = np.memmap(path, np.uint8, "c", start, (member.file_size,))
    if zlib.crc32(data.data) != member.CRC:
        raise zipfile.BadZipFile(f"the CRC of {member.filename} is not what the archive says")
    return data


def _without_modules(content: Any) -> Any:
    """Makes dicts of containers, and one dict of dotted names of a whole module."""
    if isinstance(content, _Module):
        attributes = {name: _without_modules(v) for name, v in content.attributes.items()}
        return dict(flat(attributes))
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if isinstance(content, dict):
        return {str(name): _without_modules(value) for name, value in content.items()}
    return content


def _prefix(archive: zipfile.ZipFile, path: Path) -> str:
    # Torch stores without compression; a member that would grow is a zip bomb.
    if any(member.file_size > path.stat().st_size for member in archive.infolist()):
        raise zipfile.BadZipFile("a member is larger than the file")
    for name in archive.namelist():
        if name.endswith("/data.pkl"):
            return name.removesuffix("/data.pkl")
    raise zipfile.BadZipFile("there is no data.pkl in it")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is damaged or not a torch archive ({type(error).__name__}: {error}); "
        "download it again"
    )
