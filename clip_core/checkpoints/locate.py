"""Finds a model by its name, path or URI, and brings it to this machine while it is being read."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from os import PathLike
from pathlib import Path
from posixpath import basename
from typing import Any

from fsspec.core import url_to_fs

from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.checkpoints.published import SHA256, published_checkpoint
from clip_core.checkpoints.reading import DESCRIPTIONS, needed_files

BUNDLED = ("tiny",)
_HUB_ID = re.compile(r"(?:hf-hub:|https?://huggingface\.co/)?([\w-]+/[\w.-]+)/?")
_NO_WEIGHTS = (".gz", ".json", ".txt")
_LOCAL_DIR = "local-dir:"  # how open_clip names a directory


def available_models() -> list[str]:
    """Returns the names `load` knows, beside files and directories."""
    return [*BUNDLED, *SHA256]


@contextmanager
def local_model(
    name: str | PathLike[str], cache_dir: str | PathLike[str] | None = None
) -> Iterator[Path]:
    """Finds a file or directory; one on another filesystem is copied here until the block ends.

    Raises:
        CheckpointError: if there is none, or it cannot be read.
    """
    name = os.fspath(name)
    if name in BUNDLED:
        yield Path(str(files("clip_core") / "models" / name))
    elif name in SHA256:
        yield published_checkpoint(name, cache_dir)
    elif "://" in name and not _HUB_ID.fullmatch(name):
        with tempfile.TemporaryDirectory(prefix="clip-beam-model-") as folder:
            target = Path(folder) / (basename(name.rstrip("/")) or "model")
            _copy(name, target)
            yield target
    else:
        yield _existing(name)


def _existing(name: str) -> Path:
    path = Path(name)
    if path.exists():
        return path
    raise CheckpointError(
        f"there is no model {name!r}, neither by name nor as a path; {_hint(name)}"
    )


def _hint(name: str) -> str:
    hub_id = _HUB_ID.fullmatch(name)
    close = difflib.get_close_matches(name, available_models(), n=1)
    if name.startswith(_LOCAL_DIR):
        close = [name.removeprefix(_LOCAL_DIR)]
    elif hub_id and not close:
        return f"did you mean 'hf://{hub_id[1]}', of the Hugging Face hub?"
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(available_models())}"


def _copy(uri: str, target: Path) -> None:
    try:
        filesystem, path = url_to_fs(uri)
        if filesystem.isdir(path):
            _copy_directory(filesystem, path, target)
        else:
            filesystem.get_file(path, str(target))
            _copy_descriptions(filesystem, path, target)
    except Exception as error:  # noqa: BLE001 - each store has error types of its own
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise CheckpointError(f"could not fetch {uri}: {reason}") from error


def _copy_descriptions(filesystem: Any, path: str, target: Path) -> None:
    """Copies what lies beside a file of weights and describes it."""
    if target.name in DESCRIPTIONS or target.suffix in _NO_WEIGHTS:
        return
    for name in sorted(DESCRIPTIONS):
        beside = f"{path.rpartition('/')[0]}/{name}"
        if filesystem.exists(beside):
            copy = target.with_name(name)
            filesystem.get_file(beside, str(copy))
            if copy.suffix == ".json" and not copy.read_bytes().lstrip().startswith(b"{"):
                copy.unlink()  # a page that a web server has for whatever is not there


def _copy_directory(filesystem: Any, path: str, target: Path) -> None:
    """Copies what is read of a model: hubs keep the same weights in several forms in one place."""
    target.mkdir()
    names = {basename(file): file for file in filesystem.ls(path, detail=False)}
    for name in needed_files(names):
        filesystem.get_file(names[name], str(target / name))
