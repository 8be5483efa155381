"""What is asked of stores, and what their answers mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from pipelines.object_stores.pool import Pool

if TYPE_CHECKING:  # slow to import, and needed only where a store is asked
    import ssl

    import aiohttp
    from multidict import CIMultiDictProxy


@dataclass(frozen=True)
class Request:
    """What is ready to be sent.

    Attributes:
        url: quoted as it is sent.
        access: the number of the credentials that it is signed with.
        timeout: of a connection on which nothing arrives.
        tls: what TLS trusts; True for the system's authorities, False for anybody.
        proxy: the URL of the proxy to go through, or None.
    """

    url: str
    headers: dict[str, str] = field(repr=False)
    access: int
    timeout: aiohttp.ClientTimeout
    tls: ssl.SSLContext | bool = True
    proxy: str | None = None
    method: str = "GET"
    body: bytes | None = field(default=None, repr=False)


class Answer(NamedTuple):
    """An answer that has arrived, whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Got(NamedTuple):
    """An object or a part of one, or what is told of one that was written.

    Attributes:
        version: changes with the object; "" where the store does not tell.
        size: of the whole object, in bytes.
        headers: of the answer to what was written.
    """

    data: bytes
    version: str
    size: int = 0
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Span:
    """A part of an object: from byte `start` up to byte `end`; of its last bytes with a negative
    start, and no end."""

    start: int
    end: int | None = None

    @property
    def header(self) -> str:
        """How a request asks for it."""
        if self.start < 0:
            return f"bytes={self.start}"
        return f"bytes={self.start}-{'' if self.end is None else self.end - 1}"

    def of(self, body: bytes) -> bytes:
        """Returns the part of a whole body, which some servers send whatever is asked for."""
        return body[self.start : self.end]


class Meaning(Enum):
    """What an answer asks for."""

    GIVEN = auto()
    MISSING = auto()
    DENIED = auto()
    BUSY = auto()  # ask less
    PASSING = auto()  # ask again
    EXPIRED = auto()  # ask with other credentials
    MOVED = auto()  # ask elsewhere
    CONFLICT = auto()  # it is not as it was to be
    REFUSED = auto()  # for good


ANY = "any"  # version that may be replaced


class Upload(Protocol):
    """An object that is written in parts.

    Attributes:
        is_in_order: whether each part must be there before the next is sent.
    """

    is_in_order: bool

    async def begin(self) -> Request:
        """Returns the request that begins it."""

    def begun(self, got: Got) -> None:
        """Takes up what was told of that."""

    async def part(self, number: int, start: int, body: bytes) -> Request:
        """Returns the request that sends a part.

        Args:
            number: from 1.
            start: byte of the object that it begins with.
        """

    def noted(self, number: int, got: Got) -> int | None:
        """Takes up what was told of a part; returns where the next one begins, or None."""

    async def finish(self) -> Request:
        """Returns the request that makes an object of the parts, where the last does not do it."""

    def made(self, got: Got) -> bool:
        """Tells by what was told of it whether the object is there, and is this one."""

    async def abort(self) -> Request:
        """Returns the request that removes the parts."""


class Store(Protocol):
    """One bucket: how it is asked, and how it answers."""

    async def host(self) -> str:
        """Returns what shares one rate of requests."""

    async def request(self, key: str) -> Request:
        """Returns the request for an object.

        Raises:
            StoreFault: if there are no credentials.
        """

    async def put(self, key: str, body: bytes, match: str | None) -> Request:
        """Returns the request that writes an object.

        Args:
            match: the version that it must have until then; None if there must be none, `ANY`
                whatever there is.

        Raises:
            StoreFault: if there are no credentials.
        """

    def upload(self, key: str, size: int, match: str | None) -> Upload:
        """Returns an upload in parts.

        Args:
            size: of the object, in bytes.
            match: as `put` has it.
        """

    def version(self, answer: Answer) -> str:
        """Returns the version of an object that was read or written; "" if it is not told."""

    def meaning(self, answer: Answer) -> tuple[Meaning, str]:
        """Tells what an answer asks for, and how the store puts it."""

    def whole(self, answer: Answer, max_bytes: int) -> bytes:
        """Returns the object that an answer holds.

        Raises:
            ChangedError: if it did not arrive whole.
            TooLargeError: if it is larger once it is unpacked.
        """

    def part(self, answer: Answer) -> bytes:
        """Returns the part of an object that an answer holds.

        Raises:
            ObjectFault: if it is no part of what the whole object is read as.
        """

    def worked(self) -> None:
        """Notes that the credentials are good."""

    async def renew(self, access: int, said: str) -> None:
        """Gets other credentials.

        Raises:
            StoreFault: if they are no better.
        """

    def moved(self, answer: Answer) -> bool:
        """Takes up where the bucket is; returns whether that is news."""


@dataclass(frozen=True)
class Sought:
    """An object of many hosts' `Places`; see `Wanted`."""

    key: str
    max_bytes: int
    order: int
    still: Callable[[], bool]


@runtime_checkable
class Places(Protocol):
    """Objects of many hosts, which are asked by rules of their own."""

    async def fetch(self, sought: Sought, bodies: Pool) -> Got:
        """Returns an object, whose bytes are taken from the pool."""

    async def close(self) -> None:
        """Closes the connections."""


@dataclass(frozen=True)
class Wanted:
    """An object.

    Attributes:
        order: the smaller, the sooner.
        still: tells whether anybody wants it yet.
        ask: makes another request about it than for its bytes, such as what writes it.
        span: the part of it that is wanted; None for all of it.
    """

    store: Store
    key: str
    max_bytes: int
    order: int
    still: Callable[[], bool]
    ask: Callable[[], Awaitable[Request]] | None = None
    span: Span | None = None


@dataclass(eq=False)
class Fetched:
    """An object that has arrived.

    Attributes:
        seconds: since it was asked for.
    """

    data: bytes
    seconds: float
    _bodies: Pool = field(repr=False)

    def give_back(self) -> None:
        """Lets as many bytes of others come; once, when these are not held any more."""
        self._bodies.give_back(len(self.data))


Done = Callable[["Fetched | BaseException"], None]


@dataclass(eq=False)
class Ask:
    """An object that is wanted.

    Attributes:
        done: hears what came of it, on the loop, which it must not block.
        still: tells before each attempt whether anybody wants it yet.
    """

    store: Store | Places
    key: str
    max_bytes: int
    done: Done
    still: Callable[[], bool] = lambda: True


_BY_STATUS = {
    401: Meaning.DENIED, 403: Meaning.DENIED, 404: Meaning.MISSING, 408: Meaning.PASSING,
    409: Meaning.PASSING, 410: Meaning.MISSING, 412: Meaning.CONFLICT, 429: Meaning.BUSY,
    503: Meaning.BUSY,
}  # fmt: skip


def by_status(status: int) -> Meaning:
    """Tells what a status alone means."""
    if 200 <= status < 300:
        return Meaning.GIVEN
    return _BY_STATUS.get(status, Meaning.PASSING if status >= 500 else Meaning.REFUSED)
