"""Reads images over http(s) without letting a manifest reach into the network of the workers.

Whoever writes a manifest chooses its URLs (server-side request forgery, OWASP SSRF). So a host name
is resolved once, every address of it must be public, the connection goes to the address that was
looked at, and each redirect is checked like a first request. Proxies named in the environment are
not used, as they would resolve names themselves.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any
from urllib.parse import urljoin

from pipelines.images.sources import RefusedURL, Url, parse_url

MAX_REDIRECTS = 5
MAX_SECONDS = 60.0  # of one attempt, redirects included; resolving a name may add to it
_REDIRECTS = {301, 302, 303, 307, 308}
_CHUNK_BYTES = 1 << 16
_HEADERS = {"User-Agent": "clip-beam", "Accept": "image/*", "Accept-Encoding": "identity"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Clock = Callable[[], float]
Timer = Callable[[float, Callable[..., None], Iterable[Any]], threading.Timer]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TooManyBytes(ValueError):
    """A body that is larger than allowed."""


class HttpStatusError(Exception):
    """An answer that is neither success nor a redirect.

    Attributes:
        status: the HTTP status.
        retry_after_s: seconds the server asks to wait, or None.
    """

    def __init__(self, status: int, retry_after: str | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        is_seconds = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
        self.retry_after_s = float(retry_after) if is_seconds and retry_after else None


class ShortBodyError(ConnectionError):
    """A body that ended before its Content-Length."""


class _Deadline:
    """The end of an attempt."""

    def __init__(self, clock: Clock, timer: Timer) -> None:
        self._clock, self._timer = clock, timer
        self._end = clock() + MAX_SECONDS

    @property
    def is_over(self) -> bool:
        return self._clock() >= self._end

    @property
    def left(self) -> float:
        """Seconds, never none, as some calls take 0 for no limit."""
        return max(self._end - self._clock(), 0.001)

    def alarm(self, call: Callable[..., None], *arguments: Any) -> threading.Timer:
        """Makes the call when the time is over, unless the alarm is cancelled."""
        alarm = self._timer(self.left, call, arguments)
        alarm.daemon = True
        alarm.start()
        return alarm


def read_http(
    text: str,
    allowed: Callable[[Url], bool],
    max_bytes: int,
    clock: Clock = time.monotonic,
    timer: Timer = threading.Timer,
) -> bytes:
    """Reads a URL's body, following redirects to where `allowed` says yes.

    Args:
        clock: tells the time, seconds.
        timer: makes what calls when the time is over, by that clock.

    Raises:
        RefusedURL: if the URL, or one that it redirects to, must not be opened.
        TooManyBytes: if the body has more than `max_bytes` bytes.
        HttpStatusError, OSError, http.client.HTTPException: as the server and the network fail.
    """
    deadline = _Deadline(clock, timer)
    for _ in range(MAX_REDIRECTS + 1):
        url = parse_url(text)
        if not allowed(url):
            raise RefusedURL("the URL is outside the allowed prefixes")
        with _request(url, deadline) as answer:
            if answer.status not in _REDIRECTS:
                return _body(answer, max_bytes)
            location = answer.getheader("Location")
        if not location:
            raise RefusedURL("a redirect that names no target")
        text = urljoin(str(url), location)
    raise RefusedURL(f"more than {MAX_REDIRECTS} redirects")


def is_public(text: str) -> bool:
    """Tells whether an address belongs to a host of the public network, in every spelling of it."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return _is_global(address)
    if address.ipv4_mapped:
        return _is_global(address.ipv4_mapped)
    inner: list[Address | None] = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return all(_is_global(one) for one in (address, *inner) if one is not None)


def _is_global(address: Address) -> bool:
    # `is_global` says yes to multicast and, in some releases, to site-local addresses.
    local = getattr(address, "is_site_local", False)
    return address.is_global and not (address.is_multicast or address.is_reserved or local)


@contextmanager
def _request(url: Url, deadline: _Deadline) -> Iterator[http.client.HTTPResponse]:
    """Sends a GET request; when the time is over the connection breaks, whatever is under way."""
    connection = _connect(url, deadline)
    sock = connection.sock  # which the connection forgets when the server is to close it
    alarm = deadline.alarm(_break, sock)
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        connection.request("GET", url.target, headers=_HEADERS)
        with connection.getresponse() as answer:
            yield answer
        if deadline.is_over:  # a body without a length seems whole where it broke
            raise TimeoutError("the connection was broken")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if deadline.is_over:
            raise TimeoutError(f"not done within {MAX_SECONDS:.0f} s") from error
        raise
    finally:
        alarm.cancel()
        connection.close()


def _connect(url: Url, deadline: _Deadline) -> http.client.HTTPConnection:
    """Connects to an address that was checked, and names the host to TLS and to the server."""
    connection = http.client.HTTPConnection(url.host, url.port)
    sock = _open_socket(_public_addresses(url), deadline)
    try:
        if url.scheme == "https":
            sock = _tls_context().wrap_socket(
                sock, server_hostname=url.host, do_handshake_on_connect=False
            )
    except BaseException:
        sock.close()
        raise
    connection.sock = sock
    return connection


@cache
def _tls_context() -> ssl.SSLContext:
    """Trusts the system's authorities; reading them takes longer than many an image."""
    return ssl.create_default_context()


def _public_addresses(url: Url) -> list[tuple[str, int]]:
    """Resolves a host, once; one address that is not public spoils them all.

    The system's resolver cannot be interrupted. It has time limits of its own, and the time that it
    took is taken from the rest of the attempt.

    Raises:
        RefusedURL: if an address is not public.
        OSError: if the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise RefusedURL("not a host name") from None
    addresses = [(str(entry[4][0]), url.port) for entry in found]
    if not addresses or not all(is_public(address) for address, _ in addresses):
        raise RefusedURL("the host is not on the public network")
    return addresses


def _open_socket(addresses: list[tuple[str, int]], deadline: _Deadline) -> socket.socket:
    """Tries the addresses in order, each for its share of the time that is left."""
    for tried, address in enumerate(addresses[:-1]):
        try:
            share = deadline.left / (len(addresses) - tried)
            return socket.create_connection(address, timeout=share)
        except OSError:
            continue
    return socket.create_connection(addresses[-1], timeout=deadline.left)


def _break(sock: socket.socket) -> None:
    with suppress(OSError):  # it broke by itself
        sock.shutdown(socket.SHUT_RDWR)


def _body(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if answer.status != 200:
        raise HttpStatusError(answer.status, answer.getheader("Retry-After"))
    coding = answer.getheader("Content-Encoding", "identity")
    if coding.lower() != "identity":  # a small body may unpack to any size
        raise RefusedURL(f"expected a body without Content-Encoding, got {coding[:20]}")
    expected = answer.length
    if expected is not None and expected > max_bytes:
        raise TooManyBytes(f"{expected} bytes, more than {max_bytes}")
    data = bytearray()
    while len(data) <= max_bytes and (chunk := answer.read(_CHUNK_BYTES)):
        data += chunk
    if len(data) > max_bytes:
        raise TooManyBytes(f"more than {max_bytes} bytes")
    if expected is not None and len(data) < expected:
        raise ShortBodyError(f"got {len(data)} of {expected} bytes")
    return bytes(data)
