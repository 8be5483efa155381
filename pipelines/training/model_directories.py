"""Puts a model into a directory, where no other model is replaced unasked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

CONFIG = "open_clip_config.json"  # that every model directory of this program has
MODEL_FILES = (
    "open_clip_model.safetensors",
    "open_clip_model.partial",
    "model.safetensors",
    "model.partial",
    "config.json",
    "preprocessor_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    CONFIG,  # last, so that a directory with a part of a model is not taken for one
)
_UNFINISHED = ".partial-model"  # where a model is until it is whole


def holds_model(directory: Path) -> bool:
    """Tells whether a file of a model is there, whoever wrote it."""
    return any(os.path.lexists(directory / name) for name in MODEL_FILES)


def first_foreign(
    directory: Path, is_own: Callable[[Path], bool] = lambda path: False
) -> Path | None:
    """Returns the first file in a directory that is of no model that this program wrote.

    Args:
        is_own: tells which other files are this program's, by their path in the directory.
    """
    files = [path.relative_to(directory) for path in _files(directory)]
    whole = (directory / CONFIG).is_file()
    for path in files:
        parts = path.parts[1:] if path.parts[0] == _UNFINISHED else path.parts
        of_model = len(parts) == 1 and parts[0] in MODEL_FILES
        if (of_model and (whole or path.parts[0] == _UNFINISHED)) or is_own(path):
            continue
        return directory / path
    return None


def put_model(directory: Path, save: Callable[[Path], None]) -> None:
    """Saves a model; one that was there before is replaced once this one is whole.

    Args:
        save: writes the files of the model into a directory.
    """
    unfinished = directory / _UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:  # what a killed process left
        (unfinished / name).unlink(missing_ok=True)
    save(unfinished)
    for name in MODEL_FILES:
        if (unfinished / name).exists():
            os.replace(unfinished / name, directory / name)
        else:  # a model of another kind has it
            (directory / name).unlink(missing_ok=True)
    unfinished.rmdir()


def _files(directory: Path) -> Iterator[Path]:
    """Yields all that is no directory, links to directories too, in order."""
    for root, folders, names in os.walk(directory):
        folders.sort()
        linked = [name for name in folders if os.path.islink(os.path.join(root, name))]
        yield from (Path(root) / name for name in sorted([*names, *linked]))
