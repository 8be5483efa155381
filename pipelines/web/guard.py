"""Lets no manifest reach into the network of the workers.

Whoever writes a manifest chooses its URLs (server-side request forgery, OWASP SSRF). So each name
is looked up here and all of its addresses must be public, a connection goes to an address that was
looked at, and the socket looks at it once more; of each redirect, too.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines.web.addresses import is_literal, is_never, is_public
from pipelines.web.settings import Bounds
from pipelines.web.urls import RefusedURL, Url, is_allowed, parse_url

KEPT_S = (
    60.0  # for which an answer is kept, and that there is no such name; the system tells no TTL
)
_MAX_KEPT = 50_000
_THREADS = 64  # that wait for the system's resolver, which cannot be interrupted


class Guard(AbstractResolver):
    """Looks names up, and at every address.

    Args:
        private: prefixes whose hosts may be private, as the operator says.
        clock: seconds.
    """

    def __init__(
        self,
        private: Sequence[str] = (),
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._private, self._clock = private, clock
        self._name_s = (bounds or Bounds()).name_s
        self._private_hosts = {parse_url(prefix).host for prefix in private}
        self._vouched: set[str] = set()  # addresses of these hosts
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="names")
        self._kept: dict[str, tuple[float, list[str] | OSError]] = {}
        self._asked: dict[str, asyncio.Future[list[str]]] = {}

    def check(self, url: Url) -> None:
        """Looks at the host of a URL before anything is sent; at a name no further than it says.

        Raises:
            RefusedURL: if nobody may ask it.
        """
        if url.host in self._private_hosts and not is_allowed(url, self._private):
            raise RefusedURL(f"{url.host} is a private host, allowed under another prefix only")
        if is_literal(url.host):
            self._vouch(url.host, [url.host])

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Looks a name up; one address that is not public spoils them all.

        Raises:
            RefusedURL: if an address is not public.
            OSError: if the name has none.
        """
        addresses = await self._addresses(host)
        self._vouch(host, addresses)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    def socket_for(self, info: Any) -> socket.socket:
        """Returns a socket for an address, once more looked at; `info` is as `getaddrinfo` has it.

        Raises:
            RefusedURL: if it is not public.
        """
        family, kind, protocol, _, address = info
        found = str(address[0])
        _look_at(found, [found], found in self._vouched)
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Lets go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _vouch(self, host: str, addresses: Sequence[str]) -> None:
        own = host in self._private_hosts
        _look_at(host, addresses, own)
        if own:
            self._vouched.update(addresses)

    async def _addresses(self, host: str) -> list[str]:
        until, found = self._kept.get(host, (0.0, []))
        if self._clock() < until:
            if isinstance(found, OSError):
                raise found
            return found
        if host not in self._asked:
            asked = asyncio.ensure_future(self._look_up(host))
            self._asked[host] = asked
            asked.add_done_callback(lambda done: self._forget(host, done))
        try:
            return await asyncio.wait_for(asyncio.shield(self._asked[host]), self._name_s)
        except asyncio.TimeoutError:
            said = f"its name was not looked up within {self._name_s:g} s"
            raise socket.gaierror(socket.EAI_AGAIN, said) from None

    def _forget(self, host: str, done: asyncio.Future[list[str]]) -> None:
        del self._asked[host]
        if not done.cancelled():
            done.exception()  # whoever asked has it, or has left

    async def _look_up(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        found: list[str] | OSError
        try:
            found = await loop.run_in_executor(self._threads, _system, host)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise
            found = error
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[host] = (self._clock() + KEPT_S, found)
        if isinstance(found, OSError):
            raise found
        return found


def _look_at(host: str, addresses: Sequence[str], own: bool) -> None:
    may = all(own or is_public(address) for address in addresses)
    if not addresses or not may or any(map(is_never, addresses)):
        raise RefusedURL(f"{host} is not on the public network")


def _system(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is empty or too long for a name
        raise socket.gaierror(socket.EAI_NONAME, "no such name") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
