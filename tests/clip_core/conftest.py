"""Models of the named architectures, all of their layers, for the tests of what a model is."""

from pathlib import Path

import pytest

from clip_core.tokenizer import Tokenizer
from making import saved_clip


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A random `tiny-rn` as a model directory."""
    return saved_clip(tmp_path_factory.mktemp("models") / "random-rn", "tiny-rn", tokenizer)


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A random `tiny-vit` as a model directory."""
    return saved_clip(
        tmp_path_factory.mktemp("models") / "random-vit", "tiny-vit", tokenizer, seed=1
    )
