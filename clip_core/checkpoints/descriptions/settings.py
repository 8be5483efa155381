"""Settings in the files beside weights: each is understood, known to change nothing, or refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.config import ConfigError

Json = Mapping[str, Any]
# Names of settings, each with the values that make a plain CLIP, the usual one first.
Plain = Mapping[str, tuple[Any, ...]]
_SHOWN = 80  # characters of a value in a message


def words(text: str) -> frozenset[str]:
    """Returns the words of a text, for long lists of names."""
    return frozenset(text.split())


def read_json(path: Path) -> Json:
    """Reads a file that holds a JSON object.

    Raises:
        CheckpointError: if it holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not JSON ({error}); download it again") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"expected an object in {path.name}, got {type(content).__name__}")
    return content


@contextmanager
def described_in(name: str) -> Iterator[None]:
    """Names the file whose settings make no model."""
    try:
        yield
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name} does not describe a CLIP: {error}") from error


def width_of(settings: Json, name: str, default: Any = None) -> Any:
    """Returns a width to divide by."""
    value = settings.get(name, default)
    if value == 0:
        raise ConfigError(f"`{name}` must be a positive int, got 0")
    return value


def side_of(settings: Json, name: str, default: Any = None) -> Any:
    """Returns the side of a square that is given as one number or as two equal ones."""
    value = settings.get(name)
    value = default if value is None else value
    sides = value if isinstance(value, list) else [value]
    if len(sides) not in (1, 2) or len(set(sides)) != 1:
        raise ConfigError(f"`{name}` must be one number or two equal ones, got {value!r}")
    return sides[0]


def three_of(value: Any, default: tuple[float, float, float]) -> Any:
    """Returns channel statistics, which may be one number for all channels, or None."""
    if value is None:
        return default
    return (value,) * 3 if isinstance(value, int | float) else tuple(value)


def check_settings(
    where: str, settings: Json, plain: Plain, without_effect: Collection[str]
) -> None:
    """Refuses what is not known to leave a model a plain CLIP.

    Args:
        where: what holds the settings, for messages.
        plain: settings that may have these values only.
        without_effect: settings that are read elsewhere, or change no embedding.

    Raises:
        CheckpointError: names the first setting that is refused, and its value.
    """
    for name, found in settings.items():
        if name in without_effect or _says_nothing(found) or found in plain.get(name, ()):
            continue
        if name in plain:
            raise CheckpointError(
                f"{where} has {name} {_shown(found)}, which is not supported; "
                f"expected {plain[name][0]!r}"
            )
        if found is not False:
            raise CheckpointError(
                f"{where} has {name} {_shown(found)}, which is not supported, as this program does "
                "not know whether it changes embeddings; if you know that it does not, load a copy "
                "of the model without it"
            )


def _says_nothing(value: Any) -> bool:
    return value is None or value in ({}, [], "")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
