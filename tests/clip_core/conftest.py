"""Models of the named architectures, all of their layers, for the tests of what a model is."""

from pathlib import Path

import pytest

from clip_core.checkpoints.saving import save_model_directory
from clip_core.tokenizer import Tokenizer
from helpers import random_clip


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A random `tiny-rn` as a model directory."""
    directory = tmp_path_factory.mktemp("models") / "random-rn"
    save_model_directory(directory, random_clip("tiny-rn", tokenizer), tokenizer)
    return directory


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A random `tiny-vit` as a model directory."""
    directory = tmp_path_factory.mktemp("models") / "random-vit"
    save_model_directory(directory, random_clip("tiny-vit", tokenizer, 1), tokenizer)
    return directory
