"""What comes of asking for an image on the web when it is not that image, and what is done then."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from pipelines.object_stores.retry_after import wait_s
from pipelines.web.settings import Bounds
from schemas.rejects import Reason

_BUSY_WAIT_S = 1.0  # at most, for each four attempts


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

    @property
    def is_silence(self) -> bool:
        """Whether the host may be gone, so that the image is put back."""
        return self.kind in (Kind.SILENT, Kind.STALLED)


@dataclass
class Trial:
    """What one image has been through.

    Attributes:
        spent_s: seconds in attempts and waits.
        attempts: refused ones as well.
        failures: those that count against it.
        broke: whether an answer broke off, as on a kept connection that the host had closed.
        last: whether it has been put back; the next that fails is its last, but for a refusal.
    """

    spent_s: float = 0.0
    attempts: int = 0
    failures: int = 0
    broke: bool = False
    last: bool = False

    def failed(self, error: AgainError) -> None:
        """Notes an attempt that failed.

        Raises:
            WebFault: if it was the last one.
        """
        self.attempts += 1
        if self.last and error.kind is not Kind.BUSY:
            said = f"{error}, also when it was tried again at the end"
            raise WebFault(Reason.FETCH_FAILED, said)
        self.broke |= error.kind is Kind.BROKEN
        self.last |= error.is_silence

    def wait_s(self, error: AgainError, alive: bool, bounds: Bounds) -> float:
        """Returns for how long to wait for the next attempt.

        Args:
            alive: whether the host answers; its refusals do not count then, for a while.

        Raises:
            WebFault: if there were enough.
        """
        patient = error.kind is Kind.BUSY and alive and self.spent_s < bounds.object_s
        self.failures += not patient
        if self.failures >= bounds.attempts:
            raise WebFault(Reason.FETCH_FAILED, f"{error}, {self.attempts} times")
        most_s = bounds.backoff_s * 2 ** min(self.attempts - 1, 10)
        if patient:
            most_s = min(most_s, _BUSY_WAIT_S * max(self.attempts / 4, 1))
        return wait_s(most_s, error.asked_s)
