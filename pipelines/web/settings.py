"""How images are asked for on the web: who asks, by which way, what is heeded, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

NAME, ADDRESS = "clip-beam", "https://github.com/clip-beam/clip-beam"
DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Bounds:
    """Seconds, and how often.

    Attributes:
        connect_s: to connect, TLS included, to all addresses of a host together.
        last_connect_s: the same of the try at the end, so that both are what a dead host costs.
        name_s: to look a host's name up.
        silent_s: in which nothing arrives, or less than 200 bytes of a body.
        whole_s: of one request, its body included.
        later_s: what was put back is tried once more after this, if not before, when nothing else
            is under way.
        gone_s: for which a host that was tried in vain is not asked again.
        object_s: of an image's own attempts, while its host asks to be asked less.
        attempts: at an image whose host answers that it cannot, or breaks off.
        backoff_s: the longest wait before the second of them; it doubles with each further one.
        all_s: of all images together, while any of them is asked for.
    """

    connect_s: float = 4.0
    last_connect_s: float = 2.0
    name_s: float = 6.0
    silent_s: float = 10.0
    whole_s: float = 60.0
    later_s: float = 30.0
    gone_s: float = 600.0
    object_s: float = 120.0
    attempts: int = 4
    backoff_s: float = 0.5
    all_s: float = math.inf


@dataclass(frozen=True)
class WebSettings:
    """What the operator says.

    Attributes:
        user_agent: goes before this program's own name; None for nothing.
        disallowed: directives of `X-Robots-Tag` that are heeded.
        proxy: its URL, `environment` for what the environment names, or None for no proxy.
        private: prefixes that name a host in full which may be of a private network.
    """

    user_agent: str | None = None
    disallowed: tuple[str, ...] = DIRECTIVES
    proxy: str | None = None
    private: tuple[str, ...] = ()
    bounds: Bounds = Bounds()

    @property
    def headers(self) -> dict[str, str]:
        """What every request says of who asks; no more than that goes out."""
        named = f"{self.user_agent} {own_user_agent()}" if self.user_agent else own_user_agent()
        return {"User-Agent": named, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


@cache
def own_user_agent() -> str:
    """Returns name and version of this program, and where to read about it."""
    try:
        number = version(NAME)
    except PackageNotFoundError:  # run from a source tree
        number = "0"
    return f"{NAME}/{number} (+{ADDRESS})"
