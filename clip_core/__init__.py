"""CLIP in PyTorch, exact to Radford et al. 2021 and its release.

    import clip_core
    model = clip_core.load("ViT-B/32")

Importing this package bounds how long OpenMP's threads spin (`clip_core.openmp`) and imports
nothing else: torch is loaded with the first use of a name below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clip_core.openmp import bound_waiting

if TYPE_CHECKING:
    from clip_core.checkpoints.locate import available_models
    from clip_core.loading import ClipModel, load

__all__ = ["ClipModel", "available_models", "load"]

bound_waiting()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clip_core import loading
    from clip_core.checkpoints import locate

    return getattr(locate if name == "available_models" else loading, name)
