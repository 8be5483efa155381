"""Packages that only some commands need, which extras of the installation bring."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType

_BACKEND = "MPLBACKEND"


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


def require_matplotlib() -> ModuleType:
    """Imports matplotlib, also where the backend of a notebook is asked for and not installed.

    Raises:
        MissingExtraError: names the extra.
    """
    if "matplotlib" in sys.modules or _BACKEND not in os.environ:
        return require("matplotlib", "plots")
    backend = os.environ.pop(_BACKEND)
    try:
        matplotlib = require("matplotlib", "plots")
    finally:
        os.environ[_BACKEND] = backend
    with suppress(ValueError):  # for the plots of others in this process
        matplotlib.rcParams["backend"] = backend
    return matplotlib
