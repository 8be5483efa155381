"""Captions that name a thing: DataComp's text-based rule, by WordNet and a list of its synsets."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.command_line.optional_packages import MissingExtraError, require
from pipelines.curation.rules import Rule
from pipelines.storage import reading

MAX_LIST_BYTES = 64 << 20
WORDS = 1 << 18  # that each process keeps what it found of
_SYNSET = re.compile(r"[a-z]([0-9]{8})")


def entity_rule(uri: str) -> Rule:
    """Keeps captions with a word whose first sense in WordNet is in a list.

    Args:
        uri: a text file of WordNet's synsets, one a line, as `n02084071`; DataComp's is that of
            ImageNet-21k.

    Raises:
        ValueError: if a line is none.
        MissingExtraError: if `nltk`, or WordNet's files for it, are not there.
    """
    _wordnet()
    lines = reading.read_retried(uri, MAX_LIST_BYTES).decode("utf-8", "replace").split()
    numbers = [_SYNSET.fullmatch(line) for line in lines]
    if not lines or None in numbers:
        bad = lines[numbers.index(None)] if lines else "nothing"
        raise ValueError(
            f"expected synsets as `synsets`, one a line as in n02084071, got {bad!r:.40}"
        )
    offsets = frozenset(int(found[1]) for found in numbers if found)
    return Rule(f"caption names one of {len(offsets):,} things", ("text",), _Names(offsets))


def _wordnet() -> Any:
    require("nltk", "rules on things in captions", extra="wordnet")
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise MissingExtraError(
            "rules on things in captions need WordNet's files, which are not there; run "
            "`python -m nltk.downloader wordnet`"
        ) from error
    return wordnet


@lru_cache(maxsize=WORDS)
def _offset(word: str) -> int | None:
    """Returns the number of a word's likeliest sense; None of a word that WordNet has not."""
    senses = _wordnet().synsets(word)
    return senses[0].offset() if senses else None


class _Names:
    """Evaluates the rule; each process loads WordNet by itself."""

    def __init__(self, offsets: frozenset[int]) -> None:
        self._offsets = offsets

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        texts = batch["text"].to_pylist()
        return np.array([self._names(text or "") for text in texts], bool)

    def _names(self, text: str) -> bool:
        return any(_offset(word) in self._offsets for word in text.split())
