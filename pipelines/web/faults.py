"""What comes of asking for an image on the web when it is not that image."""

from __future__ import annotations

from enum import Enum, auto

from schemas.rejects import Reason


class WebFault(Exception):
    """An image that cannot be had: says why, with host and kind of failure.

    Attributes:
        reason: for the table of rejects.
    """

    def __init__(self, reason: Reason, said: str) -> None:
        super().__init__(said)
        self.reason = reason


class Kind(Enum):
    """What an attempt failed at, which another one may mend."""

    SILENT = auto()  # no connection, or no answer
    STALLED = auto()  # an answer that did not end
    BROKEN = auto()  # an answer that says so, or is cut
    BUSY = auto()  # the host asks to be asked less


class AgainError(Exception):
    """An attempt that another one may mend.

    Attributes:
        asked_s: seconds that the host asks to wait.
    """

    def __init__(self, kind: Kind, said: str, asked_s: float = 0.0) -> None:
        super().__init__(said)
        self.kind, self.asked_s = kind, asked_s
