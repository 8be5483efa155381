"""What is said of a model beside its name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LoadOptions:
    """What `clip_core.load` is told beside a name, a device and a precision.

    Attributes:
        arch, activation, vocab: what the checkpoint itself does not tell, or None.
        cache_dir: directory of downloaded models, or None for the usual one.
        image_policy: whose order images become pixels in: `openai`, `rgb_first` or `hugging_face`.
    """

    arch: str | None = None
    activation: str | None = None
    vocab: str | None = None
    cache_dir: str | None = None
    image_policy: str = "openai"

    def arguments(self) -> dict[str, Any]:
        """Returns them as `clip_core.load` takes them."""
        return asdict(self)
