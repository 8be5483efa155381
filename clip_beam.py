"""clip-beam under one name: what programs import, and what the console script starts.

    from clip_beam import EmbedRows, ReadManifest, WriteUnits, load

Importing this module takes the three packages `clip_core`, `schemas` and `pipelines` from the place
where it lies itself, so that folders of these names elsewhere on `sys.path` do not get in between.
It loads neither torch nor Beam: those come with the first use of a name below.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from clip_core import ClipModel, available_models, load
    from pipelines import (
        EmbedRows,
        FetchPolicy,
        ImageColumn,
        ManifestFormat,
        ManifestRequest,
        ReadManifest,
        Row,
        ToChunks,
        ToRows,
        WriteUnits,
        register_format,
        register_image_column,
    )

    __version__: str

__all__ = [
    "ClipModel",
    "EmbedRows",
    "FetchPolicy",
    "ImageColumn",
    "ManifestFormat",
    "ManifestRequest",
    "ReadManifest",
    "Row",
    "ToChunks",
    "ToRows",
    "WriteUnits",
    "__version__",
    "available_models",
    "load",
    "register_format",
    "register_image_column",
]
PACKAGES = ("clip_core", "schemas", "pipelines")  # in the order in which they import each other
WRONG_USAGE = 2
_HERE = os.path.dirname(os.path.abspath(__file__))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _hidden:
        raise ImportError(_hidden)
    if name == "__version__":
        return _version()
    from_core = name in import_module("clip_core").__all__
    return getattr(import_module("clip_core" if from_core else "pipelines"), name)


def main() -> NoReturn:
    """Runs `clip-beam` and ends its process; 2 where another package hides one of its own."""
    if _hidden:
        if sys.stderr is not None:  # it may be closed
            print(f"clip-beam: {_hidden}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    import_module("pipelines.cli").console_script()
    raise AssertionError("a console script ends its process")


def _version() -> str:
    try:
        return version("clip-beam")
    except PackageNotFoundError:
        return "0+source"  # a source tree that is not installed


def _import_packages() -> str:
    """Imports the packages that lie beside this file; returns why not, if another hides one."""
    for name in PACKAGES:
        if name in sys.modules and not _lies_here(sys.modules[name]):
            return (
                f"the package `{name}` of {_place(sys.modules[name])} was imported first and hides "
                f"that of {_HERE}; rename it, or use clip-beam in a process that does not import it"
            )
    for name in PACKAGES:
        if name not in sys.modules and not _import_from_here(name):
            return f"the package `{name}` is not in {_HERE}, as clip_beam.py is; install both again"
    return ""


def _import_from_here(name: str) -> bool:
    """Imports a package as `import` does, but looks nowhere else; False if it is not there."""
    spec = PathFinder.find_spec(name, [_HERE])
    if spec is None or spec.loader is None:
        return False
    sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
    return True


def _lies_here(module: ModuleType) -> bool:
    try:
        return os.path.samefile(_place(module), os.path.join(_HERE, module.__name__))
    except OSError:
        return False


def _place(module: ModuleType) -> str:
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    return str(next((place for place in places if place), "no file"))


_hidden = _import_packages()

if __name__ == "__main__":
    main()
