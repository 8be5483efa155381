"""Packages that only some commands need, which extras of the installation bring."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A package of an extra is not installed: says what to run."""


def require(package: str, what: str, extra: str = "report") -> ModuleType:
    """Imports a package of an extra.

    Args:
        what: what needs it, for the message.

    Raises:
        MissingExtraError: names the extra.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{what} need {error.name or package}, which is not installed; run "
            f'`pip install "clip-beam[{extra}]"`'
        ) from error
