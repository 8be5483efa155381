"""Settings in the files beside weights: what is refused, and how that is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from clip_core.checkpoints.lazy_tensor import CheckpointError
from clip_core.config import (
    ConfigError,
)

Json = Mapping[str, Any]


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


def refuse_variants(where: str, settings: Json, plain: Json) -> None:
    for name, value in plain.items():
        found = settings.get(name, value)
        if found != value and found not in (None, {}, []):
            raise CheckpointError(
                f"{where} has {name} {found!r}, which is not supported; expected {value!r}"
            )
