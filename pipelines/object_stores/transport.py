"""Sends one request and reads its answer, over connections that are kept."""

from __future__ import annotations

import io
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from pipelines.object_stores.answers import Answer, Request
from pipelines.object_stores.faults import ChangedError, TooLargeError
from pipelines.object_stores.pool import Pool

_MAX_REFUSAL_BYTES = 1 << 16  # of which is read what it says
_LARGE_BYTES = 1 << 20  # that is sent piece by piece
_AUTOMATIC_HEADERS = ("Accept", "Accept-Encoding", "User-Agent")


class Transport:
    """Sends from this process. Whatever has its one method may take its place.

    Args:
        bodies: bytes of bodies that may be under way.
    """

    def __init__(self, bodies: Pool) -> None:
        self._bodies = bodies
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: Request, max_bytes: int, order: int) -> Answer:
        """Returns the answer to a request.

        The bytes of a body are taken from the pool when its headers have come, in the order of who
        asks; they are the caller's to give back: as many as `held` says.

        Raises:
            TooLargeError: if the body is larger than `max_bytes`; it is broken off.
            aiohttp.ClientError, OSError, TimeoutError: as the connection fails.
        """
        if self._session is None:
            self._session = _new_session()
        body = request.body
        async with self._session.request(
            request.method,
            URL(request.url, encoded=True),
            data=io.BytesIO(body) if body and len(body) > _LARGE_BYTES else body,
            headers=request.headers,
            allow_redirects=False,
            timeout=request.timeout,
            ssl=request.tls,
            proxy=request.proxy,
        ) as answer:
            if answer.status >= 300:
                said = await answer.content.read(_MAX_REFUSAL_BYTES)
                return Answer(answer.status, answer.headers, said)
            size = answer.content_length
            if size is not None and size > max_bytes:
                answer.close()
                raise TooLargeError(f"{size} bytes, more than {max_bytes}")
            taken = max_bytes if size is None else size
            await self._bodies.take(taken, order)
            try:
                body = await (_bounded(answer, max_bytes) if size is None else answer.read())
            except BaseException:
                self._bodies.give_back(taken)
                raise
            if len(body) != taken:
                self._bodies.give_back(taken - len(body))
            if size is not None and len(body) != size:
                self._bodies.give_back(len(body))
                raise ChangedError(f"got {len(body)} of {size} bytes")
            return Answer(answer.status, answer.headers, body)

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()


def proxy_of(url: str) -> str | None:
    """Returns the proxy that the environment names for a URL, or None.

    aiohttp itself would look at the environment, and at `.netrc`, for each request, which costs
    more than the request.
    """
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def _new_session() -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_AUTOMATIC_HEADERS,
    )
    session._retry_connection = False  # else a GET that breaks is sent twice, uncounted
    return session


async def _bounded(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Reads a body whose length is not told."""
    pieces, size = [], 0
    async for piece in answer.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            answer.close()
            raise TooLargeError(f"more than {max_bytes} bytes")
        pieces.append(piece)
    return b"".join(pieces)
