"""Sends one request to one host and reads its answer, within the bounds of time and bytes."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from pipelines.object_stores.answers import Sought
from pipelines.object_stores.faults import ChangedError, TooLargeError
from pipelines.object_stores.pool import Pool
from pipelines.web.faults import AgainError, Kind, WebFault
from pipelines.web.guard import Guard
from pipelines.web.headers.codings import unpacked
from pipelines.web.headers.opt_out import opted_out
from pipelines.web.proxies import proxy_for
from pipelines.web.settings import WebSettings
from pipelines.web.urls import Url
from schemas.rejects import Reason

_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_WHOLE = (204, 205, 206)
_ROOM_BYTES = 1 << 20  # that is taken for a body whose length is not told, until it is larger
_LEAST_BYTES = 200  # that arrive while a body does not stall
_HEAD_BYTES = 1 << 16  # of a line and of a field
_KEPT_S = 2.0  # for which a connection waits for another image: few hosts have one soon


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        body: unpacked, of an image; None of anything else.
    """

    status: int
    headers: CIMultiDictProxy[str]
    cookies: tuple[str, ...] = ()
    body: bytes | None = None

    @property
    def is_redirect(self) -> bool:
        """Whether it sends on to another URL."""
        return self.status in _REDIRECTS


class Exchange:
    """Sends requests of this process, over connections that are kept for a while.

    Args:
        bodies: bytes of bodies that may be under way.
    """

    def __init__(
        self,
        settings: WebSettings,
        guard: Guard,
        bodies: Pool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._bounds = settings, settings.bounds
        self._guard, self._bodies, self._clock = guard, bodies, clock
        self._large = asyncio.Lock()  # held by the one body that outgrows its room
        self._sessions: dict[tuple[bool, bool], aiohttp.ClientSession] = {}

    async def get(
        self, url: Url, cookies: str, sought: Sought, last: bool = False, fresh: bool = False
    ) -> Reply:
        """Returns the answer; the bytes of its body are taken from the pool.

        Args:
            last: whether it is the last try of an image that was put back.
            fresh: whether to use a connection that nothing was asked on before. Some hosts close
                connections without a word, and every kept one may be closed by now.

        Raises:
            WebFault: if it says for good that there is no image to be had.
            AgainError: if another request may be answered better.
            RefusedURL: if the host must not be asked.
        """
        self._guard.check(url)
        proxy = proxy_for(self._settings.proxy, url)
        session = self._session(bool(proxy), fresh)
        headers = self._settings.headers | ({"Cookie": cookies} if cookies else {})
        answer: aiohttp.ClientResponse | None = None
        try:
            async with session.get(
                URL(str(url), encoded=True),
                headers=headers,
                allow_redirects=False,
                proxy=proxy,
                ssl=tls_context(),
                timeout=self._timeout(last),
            ) as answer:
                return await self._taken_up(url, answer, sought)
        except asyncio.TimeoutError as error:
            raise self._late(url, error, answer is not None, last) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(url, error) from error
        except TooLargeError as error:
            raise WebFault(Reason.TOO_LARGE, f"{url.host}: {error}") from error

    async def close(self) -> None:
        """Closes the connections."""
        for session in self._sessions.values():
            await session.close()
        await self._guard.close()

    def _session(self, proxied: bool, fresh: bool) -> aiohttp.ClientSession:
        if (proxied, fresh) not in self._sessions:
            # A proxy is the operator's own: it may be anywhere, and looks names up itself.
            guarded = not proxied
            self._sessions[proxied, fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    force_close=fresh,
                    keepalive_timeout=None if fresh else _KEPT_S,
                    use_dns_cache=proxied,
                    resolver=self._guard if guarded else None,
                    socket_factory=self._guard.socket_for if guarded else None,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=_HEAD_BYTES,
                max_field_size=_HEAD_BYTES,
            )
        return self._sessions[proxied, fresh]

    def _timeout(self, last: bool) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=self._bounds.whole_s,
            sock_connect=self._bounds.last_connect_s if last else self._bounds.connect_s,
            sock_read=self._bounds.silent_s,
        )

    async def _taken_up(self, url: Url, answer: aiohttp.ClientResponse, sought: Sought) -> Reply:
        headers, cookies = answer.headers, tuple(answer.headers.getall("Set-Cookie", ()))
        if not 200 <= answer.status < 300 or answer.status in _NOT_WHOLE:
            answer.close()
            return Reply(answer.status, headers, cookies)
        tags = headers.getall("X-Robots-Tag", ())
        if tag := opted_out(tags, self._settings.disallowed):
            answer.close()
            raise WebFault(Reason.OPTED_OUT, f"{url.host}: X-Robots-Tag {tag}")
        body = await self._read(answer, sought)
        try:
            data = unpacked(
                ",".join(headers.getall("Content-Encoding", ())), body, sought.max_bytes
            )
        except ValueError as error:
            self._bodies.give_back(len(body))
            if isinstance(error, TooLargeError):
                raise
            raise WebFault(Reason.FETCH_FAILED, f"{url.host}: {error}") from error
        except BaseException:
            self._bodies.give_back(len(body))
            raise
        self._bodies.add(len(data) - len(body))
        return Reply(answer.status, headers, cookies, data)

    async def _read(self, answer: aiohttp.ClientResponse, sought: Sought) -> bytes:
        size = answer.content_length
        if size is not None and size > sought.max_bytes:
            answer.close()
            raise TooLargeError(f"{size} bytes, more than {sought.max_bytes}")
        room = min(_ROOM_BYTES, sought.max_bytes) if size is None else size
        await self._bodies.take(room, sought.order)
        body = bytearray()
        try:
            await self._fill(body, answer, room)
            if len(body) == room and size is None:
                async with self._large:
                    await self._fill(body, answer, sought.max_bytes + 1)
            if len(body) > sought.max_bytes:
                answer.close()
                raise TooLargeError(f"more than {sought.max_bytes} bytes")
            if size is not None and len(body) < size:
                raise ChangedError(f"got {len(body)} of {size} bytes")
        except BaseException:
            self._bodies.give_back(room)
            raise
        self._bodies.add(len(body) - room)
        return bytes(body)

    async def _fill(self, body: bytearray, answer: aiohttp.ClientResponse, most: int) -> None:
        """Reads until there are so many bytes, or no more of them.

        Raises:
            TimeoutError: if they drip.
        """
        began, before = self._clock(), len(body)
        while len(body) < most and (piece := await answer.content.read(most - len(body))):
            body += piece
            if self._clock() - began >= self._bounds.silent_s:
                if len(body) - before < _LEAST_BYTES and len(body) < most:
                    raise asyncio.TimeoutError
                began, before = self._clock(), len(body)

    def _late(self, url: Url, error: BaseException, answered: bool, last: bool) -> AgainError:
        bounds = self._bounds
        connect_s = bounds.last_connect_s if last else bounds.connect_s
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            said, kind = f"no connection within {connect_s:g} s", Kind.SILENT
        elif not answered:
            said, kind = f"no answer within {bounds.silent_s:g} s", Kind.SILENT
        else:
            said = f"the image stalled, or was not there within {bounds.whole_s:g} s"
            kind = Kind.STALLED
        return AgainError(kind, f"{url.host}: {said}")


@cache
def tls_context() -> ssl.SSLContext:
    """Trusts the system's authorities; reading them takes longer than many an image."""
    return ssl.create_default_context()


def _failed(url: Url, error: Exception) -> AgainError | WebFault:
    """Tells what a host's fault is worth."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        told = getattr(error, "certificate_error", error)
        return WebFault(Reason.FETCH_FAILED, f"{url.host}: no TLS connection: {told}")
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, socket.gaierror):
        if cause.errno == socket.EAI_AGAIN:
            return AgainError(Kind.SILENT, f"{url.host}: {cause.strerror}")
        return WebFault(Reason.FETCH_FAILED, f"{url.host}: there is no such host")
    if isinstance(error, aiohttp.ClientConnectorError):
        said = errno.errorcode.get(error.os_error.errno or 0, type(cause).__name__)
        to = " to the proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        return AgainError(Kind.SILENT, f"{url.host}: no connection{to} ({said})")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        said = f"{url.host}: HTTP {error.status} of the proxy"
        passes = error.status >= 500
        return AgainError(Kind.BROKEN, said) if passes else WebFault(Reason.FETCH_FAILED, said)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        said = (getattr(error, "message", "") or str(error)).strip().partition("\n")[0].rstrip(":")
        return WebFault(Reason.FETCH_FAILED, f"{url.host}: no answer of HTTP ({said:.100})")
    said = str(error) or type(error).__name__
    return AgainError(Kind.BROKEN, f"{url.host}: the answer broke off ({said:.100})")
