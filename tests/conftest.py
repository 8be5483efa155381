"""Shared fixtures: a small random model, pictures drawn in code, and the golden numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from stores import emulators

from clip_core.checkpoints.saving import save_model_directory
from clip_core.model import Clip
from clip_core.tokenizer import Tokenizer
from clip_core.training.bpe import learn_merges
from clip_core.training.initialization import new_model
from clip_core.variants import VARIANTS
from pipelines.manifests.planning import ManifestRequest, plan_units
from pipelines.output.scored_tables import FINGERPRINT_KEY
from pipelines.records import Row
from pipelines.storage import reading
from schemas.embeddings import embeddings_schema
from schemas.rejects import rejects_schema

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    if not GOLDEN.exists():
        pytest.skip("the golden numbers are not beside this checkout")
    return GOLDEN


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = ["a red circle on a white background", "a photo of a large blue star"] * 3
    return Tokenizer(learn_merges(texts, 600), context_length=32)


@pytest.fixture(scope="session")
def stores():
    """Emulated object stores by scheme; once a session, as filesystems keep their connections."""
    with emulators() as found:
        yield found


def random_clip(variant: str, tokenizer: Tokenizer, seed: int = 0) -> Clip:
    config = VARIANTS[variant]
    text = replace(config.text, vocab_size=tokenizer.vocab_size)
    return new_model(replace(config, text=text), seed).eval()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A random ResNet as a model directory."""
    directory = tmp_path_factory.mktemp("models") / "random-rn"
    save_model_directory(directory, random_clip("tiny-rn", tokenizer), tokenizer)
    return directory


@pytest.fixture(scope="session")
def vit_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A random ViT as a model directory."""
    directory = tmp_path_factory.mktemp("models") / "random-vit"
    save_model_directory(directory, random_clip("tiny-vit", tokenizer, 1), tokenizer)
    return directory


def flags_over(defaults: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Returns flags, behind the defaults (each with its value) that they do not give."""
    pairs = zip(defaults[::2], defaults[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in flags for word in pair] + list(flags)


def make_image(width: int = 80, height: int = 70, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with some noise, so that resampling matters."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    base = np.stack([x, y, 1 - x], axis=-1) * 200 + rng.integers(0, 50, (height, width, 3))
    return Image.fromarray(base.astype(np.uint8)).convert(mode)


def encode_image(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def make_row(number: int = 0, **changes: object) -> Row:
    row = Row(
        uid=f"row-{number}",
        source="/data/manifest.jsonl",
        source_row=number,
        url=f"{number}.png",
        text=f"a red circle number {number}",
        image_root="/data",
    )
    return row._replace(**changes)


def plan(pattern: object, **settings: object):
    return plan_units(ManifestRequest(patterns=(str(pattern),), **settings))


def write_scored(
    root: Path,
    units: list[list[dict]],
    *,
    rejects=(),
    record=None,
    fingerprint=None,
    kept=(),
    dim=4,
    whole=True,
) -> Path:
    """Writes tables as `embed` does, a file for each list of rows; fields left out have defaults.

    A run that is not whole has no run.json unless there is a `record`, and no _SUCCESS.
    """
    defaults = {
        "source": "/data/manifest.jsonl",
        "text": "a red circle",
        "original_width": 80,
        "original_height": 70,
        "similarity": 0.5,
        "text_truncated": False,
        "image_embedding": np.eye(dim, dtype=np.float32)[0],
        "text_embedding": np.eye(dim, dtype=np.float32)[0],
    }
    metadata = {FINGERPRINT_KEY: json.dumps(fingerprint or {"checkpoint_sha256": "c0ffee"})}
    schema = embeddings_schema(dim, kept=kept).with_metadata(metadata)
    (root / "embeddings").mkdir(parents=True)
    number = 0
    for index, unit in enumerate(units):
        rows = []
        for row in unit:
            rows.append(defaults | {"uid": f"row-{number}", "source_row": number} | row)
            number += 1
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, root / "embeddings" / f"unit-{index}.parquet", row_group_size=50)
    if rejects:
        (root / "rejects").mkdir()
        rows = [{"uid": f"bad-{n}", "stage": "decode"} | row for n, row in enumerate(rejects)]
        pq.write_table(
            pa.Table.from_pylist(rows, rejects_schema()), root / "rejects" / "unit-0.parquet"
        )
    counts = {"embedded": number, "rejected": len(rejects), "rows_read": number + len(rejects)}
    if whole:
        (root / "run.json").write_text(json.dumps({"counts": counts} | (record or {})))
        (root / "_SUCCESS").touch()
    elif record is not None:
        (root / "run.json").write_text(json.dumps(record))
    return root


@pytest.fixture
def store_fails_once(monkeypatch) -> list[Exception]:
    """The fault that the next read of a whole file meets; an empty list once it has."""
    read_whole, faults = reading.read_whole, [ConnectionResetError("try again")]

    def failing(uri: str, max_bytes: int) -> bytes:
        if faults:
            raise faults.pop()
        return read_whole(uri, max_bytes)

    monkeypatch.setattr(reading, "read_whole", failing)
    return faults
