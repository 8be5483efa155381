"""URLs taken apart in one way only, so that what is looked at is what is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, urljoin

from pipelines.web.domains import host_of

HTTP_SCHEMES = ("http", "https")
PORTS = {"http": 80, "https": 443}
# The ends of a URL, and line breaks in it, are no part of it (WHATWG URL, basic URL parser).
AROUND = "".join(map(chr, range(0x21)))
_BREAKS = re.compile("[\t\n\r]")
_CONTROLS = re.compile("[\0-\x1f\x7f]")
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")
# What stays as it is in a path and in a query (the same standard's percent-encode sets); the
# percent sign is part of what is quoted already.
_IN_PATH = "!$%&'()*+,-./:;=@[]_|~"
_IN_QUERY = _IN_PATH.replace("'", "") + "?^`{}"


class RefusedURL(ValueError):
    """A URL that must not be opened: says why, without naming more than the reason."""


@dataclass(frozen=True)
class Url:
    """A checked URL.

    Attributes:
        host: lower case, IDNA encoded, without brackets.
        target: path and query, as sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    def __str__(self) -> str:
        return self.origin + self.target

    @property
    def origin(self) -> str:
        """Scheme, host and port, as they are named to people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def without_tls(self) -> Url:
        """The same at `http://`, where a prefix may allow it."""
        port = PORTS["http"] if self.port == PORTS[self.scheme] else self.port
        return replace(self, scheme="http", port=port)


def parse_url(text: str) -> Url:
    """Takes a URL apart, in the one way in which it will be used.

    Raises:
        RefusedURL: for what two programs may read differently: user names, backslashes, control
            characters, encoded dots that make a step up; and for what is no http(s) URL.
    """
    text = _BREAKS.sub("", text.strip(AROUND))
    if _CONTROLS.search(text):
        raise RefusedURL("the URL holds control characters")
    if "\\" in text:
        raise RefusedURL("the URL holds a backslash")
    found = _URL.fullmatch(text)
    if not found:
        raise RefusedURL("expected an http(s) URL with a host")
    scheme, authority, path, query = found[1].lower(), found[2], found[3] or "/", found[4] or ""
    if "@" in authority:
        raise RefusedURL("the URL holds a user name or password")
    host, port = _host_and_port(authority, PORTS[scheme])
    if any(is_dots(step) for step in path.split("/")):
        raise RefusedURL("the URL holds `.` or `..` as a step of its path")
    return Url(scheme, host, port, _quoted(path, _IN_PATH) + _quoted(query, _IN_QUERY))


def target_of(url: Url, location: str) -> str:
    """Returns where an answer sends on to.

    Args:
        location: as the header has it; bytes that are no UTF-8 as surrogates.

    Raises:
        RefusedURL: if that is no URL.
    """
    try:
        return urljoin(str(url), _BREAKS.sub("", location.strip(AROUND)))
    except ValueError:
        raise RefusedURL("not a URL") from None


def is_under(url: Url, prefix: str) -> bool:
    """Tells whether a URL lies under an allowed prefix.

    A bare `https://` allows every host at the usual port; otherwise scheme, host and port are
    equal, and the path begins with the prefix's, by whole segments.
    """
    scheme, _, rest = prefix.partition("://")
    if scheme.lower() != url.scheme:
        return False
    if not rest.strip("/"):
        return url.port == PORTS[url.scheme]
    try:
        allowed = parse_url(prefix)
    except RefusedURL:
        return False
    folder = allowed.target.rstrip("/") + "/"
    same_host = (url.host, url.port) == (allowed.host, allowed.port)
    return same_host and url.target.partition("?")[0].startswith(folder)


def is_allowed(url: Url, prefixes: Sequence[str]) -> bool:
    """Tells whether a URL lies under one of the allowed prefixes."""
    return any(is_under(url, prefix) for prefix in prefixes)


def is_dots(step: str) -> bool:
    """Tells whether a step of a path is `.` or `..`, encoded or not."""
    return step.lower().replace("%2e", ".") in (".", "..")


def _host_and_port(authority: str, usual: int) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(authority)
    try:
        if not found or len(found[2] or "") > 5:
            raise ValueError("not a host and a port")
        port = int(found[2] or usual)
        if not 0 < port < 1 << 16:
            raise ValueError("not a port")
        return host_of(found[1]), port
    except ValueError:  # errors of encodings and of IDNA among them
        raise RefusedURL("expected an http(s) URL with a host") from None


def _quoted(text: str, safe: str) -> str:
    try:
        return quote(text, safe=safe, errors="surrogateescape")
    except UnicodeError:
        raise RefusedURL("the URL holds half a character") from None
