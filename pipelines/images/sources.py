"""Where images may come from: URLs taken apart in one way only, and prefixes that can match."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from pipelines.storage import stores, uris
from pipelines.storage.redaction import redact

HTTP_SCHEMES = ("http", "https")
_PORTS = {"http": 80, "https": 443}
# What a URL may hold unquoted (RFC 3986); the per cent sign is part of what is quoted already.
_URL_CHARACTERS = "/%:=&?~+!$,;'@()*[]"
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/?(?!/)")  # of two letters at least: `C:/` is not
_FILE = re.compile("(?:file|local):/", re.IGNORECASE)


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
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse_url(text: str) -> Url:
    """Takes a URL apart, in the one way in which it will be used.

    Raises:
        RefusedURL: for what two programs may read differently: user names, backslashes, control
            characters, encoded dots that make a step up; and for what is no http(s) URL.
    """
    if any(ord(character) < 0x21 or ord(character) == 0x7F for character in text.replace(" ", "")):
        raise RefusedURL("the URL holds control characters")
    if "\\" in text:
        raise RefusedURL("the URL holds a backslash")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
        path = quote(parts.path or "/", safe=_URL_CHARACTERS)
        query = f"?{quote(parts.query, safe=_URL_CHARACTERS)}" if parts.query else ""
    except (ValueError, UnicodeError):
        raise RefusedURL("not a URL") from None
    scheme = parts.scheme.lower()
    if scheme not in HTTP_SCHEMES or not host or "%" in host or " " in host:
        raise RefusedURL("expected an http(s) URL with a host")
    if "@" in parts.netloc:
        raise RefusedURL("the URL holds a user name or password")
    if any(_is_dots(step) for step in path.split("/")):
        raise RefusedURL("the URL holds `.` or `..` as a step of its path")
    return Url(scheme, host.lower(), port or _PORTS[scheme], path + query)


def is_under(url: Url, prefix: str) -> bool:
    """Tells whether a URL lies under an allowed prefix.

    A bare `https://` allows every host at the usual port; otherwise scheme, host and port are
    equal, and the path begins with the prefix's, by whole segments.
    """
    scheme, _, rest = prefix.partition("://")
    if scheme.lower() != url.scheme:
        return False
    if not rest.strip("/"):
        return url.port == _PORTS[url.scheme]
    try:
        allowed = parse_url(prefix)
    except RefusedURL:
        return False
    folder = allowed.target.rstrip("/") + "/"
    same_host = (url.host, url.port) == (allowed.host, allowed.port)
    return same_host and url.target.partition("?")[0].startswith(folder)


def check_prefix(prefix: str, flag: str = "--allow_images_from") -> None:
    """Refuses a prefix that no place can lie under.

    Args:
        flag: the one that was given the prefix.

    Raises:
        ValueError: says what is expected.
    """
    scheme, _, rest = uris.canonical(prefix).partition("://")
    if not prefix.strip():
        raise ValueError(f"`{flag}` is empty; name a directory or a URI prefix")
    if "::" in prefix:
        raise ValueError(f"`{flag}` takes one filesystem, got the chain {redact(prefix)!r}")
    if stores.is_local(uris.canonical(prefix)):
        return _check_local(prefix, flag)
    if scheme in HTTP_SCHEMES:
        return _check_http(prefix, rest, flag)
    if "*" in rest:
        raise ValueError(f"`{flag}` takes a prefix and no pattern; leave the `*` of {prefix!r} out")
    if remedy := stores.missing_filesystem(scheme):
        raise ValueError(
            f"`{flag}` names {scheme}://, of which no filesystem is installed; {remedy}"
        )


def _check_local(prefix: str, flag: str) -> None:
    path = uris.normalize(prefix)
    if os.path.isfile(path):
        raise ValueError(f"`{flag}` takes a directory or a URI prefix, got the file {prefix!r}")
    if os.path.lexists(path):
        return
    if _ONE_SLASH.match(prefix) and not _FILE.match(prefix):
        raise ValueError(f"`{flag}` takes a path or a URI with `://`, got {prefix!r}")
    if "*" in path:
        raise ValueError(f"`{flag}` takes a prefix and no pattern; leave the `*` of {prefix!r} out")


def _check_http(prefix: str, rest: str, flag: str) -> None:
    if not rest.strip("/"):
        return
    remedy = f"`{flag}` takes `https://host/path/`, without user name and query"
    try:
        parse_url(prefix)
    except RefusedURL as error:
        raise ValueError(f"{remedy}; {error}") from None
    if "?" in prefix or "#" in prefix:
        raise ValueError(f"{remedy}; got a prefix with a query")


def _is_dots(step: str) -> bool:
    return step.lower().replace("%2e", ".") in (".", "..")
