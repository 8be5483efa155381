"""What goes wrong with an object or with its store, as whoever asked hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TooLargeError(ValueError):
    """An object that is larger than the caller takes."""


class ChangedError(ConnectionError):
    """A body that is not what the store said it has; reading again may help."""


class MissingError(FileNotFoundError):
    """There is no such object."""


class DeniedError(PermissionError):
    """The store knows who asks, and denies the object.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class ConflictError(Exception):
    """An object that is not, or no longer, as it was to be when another was put in its place."""


class ObjectFault(Exception):
    """An object that cannot be had, while its store can: refused for good, or failed too often."""


class StoreFault(OSError):
    """A store that failed for good, or for longer than it was asked again."""


@contextmanager
def named(name: str) -> Iterator[None]:
    """Makes errors of the system of what goes wrong with an object, and has them name it.

    Raises:
        MissingError, PermissionError, StoreFault: in place of others.
    """
    try:
        yield
    except MissingError as error:
        raise MissingError(f"there is no {name} ({error})") from error
    except DeniedError as error:
        raise PermissionError(f"access to {name} is denied ({error})") from error
    except (ObjectFault, StoreFault) as error:
        raise StoreFault(f"{name}: {error}") from error
