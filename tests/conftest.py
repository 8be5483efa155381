"""Shared fixtures: a small random model, emulated stores, and the golden numbers.

What they need is imported by them: with `-n`, this file is read by a process that runs no test, and
those that do wait for it.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

# google-auth reads it while Beam is imported. Else each look-up of credentials asks a server of Google's
# cloud three times, and waits for seconds where nothing answers at its address.
os.environ["NO_GCE_CHECK"] = "true"
gc.disable()  # while tests are collected, of which everything stays


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays, and is not looked through over and over
    gc.enable()
    if "apache_beam" in sys.modules:
        from quick_beam import quicken

        quicken()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden numbers; `golden/make.py` says where they are from."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tokenizer():
    from clip_core.tokenizer import Tokenizer
    from clip_core.training.bpe import learn_merges

    texts = ["a red circle on a white background", "a photo of a large blue star"] * 3
    return Tokenizer(learn_merges(texts, 600), context_length=32)


@pytest.fixture(scope="session")
def stores():
    """Emulated object stores by scheme; once a session, as filesystems keep their connections."""
    from stores import emulators

    with emulators() as found:
        yield found


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """A random ResNet, thin and of few layers, as a model directory."""
    from making import saved_clip

    return saved_clip(
        tmp_path_factory.mktemp("models") / "random-rn", "tiny-rn", tokenizer, shallow=True
    )


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """A random ViT, thin and of one layer, as a model directory."""
    from making import saved_clip

    return saved_clip(
        tmp_path_factory.mktemp("models") / "random-vit",
        "tiny-vit",
        tokenizer,
        seed=1,
        shallow=True,
    )


@pytest.fixture
def store_fails_once(monkeypatch) -> list[Exception]:
    """The fault that the next read of a whole file meets; an empty list once it has."""
    from pipelines.storage import reading

    read_whole, faults = reading.read_whole, [ConnectionResetError("try again")]

    def failing(uri: str, max_bytes: int) -> bytes:
        if faults:
            raise faults.pop()
        return read_whole(uri, max_bytes)

    monkeypatch.setattr(reading, "read_whole", failing)
    return faults
