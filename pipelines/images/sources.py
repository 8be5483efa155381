"""Which prefixes can be allowed: those that some place can lie under."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence

from pipelines.storage import stores, uris
from pipelines.storage.redaction import redact
from pipelines.web.addresses import is_literal, is_never, is_public
from pipelines.web.urls import HTTP_SCHEMES, RefusedURL, parse_url

_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/?(?!/)")  # of two letters at least: `C:/` is not
_FILE = re.compile("(?:file|local):/", re.IGNORECASE)


def check_prefix(prefix: str, name: str = "allow_images_from", private: bool | None = None) -> None:
    """Refuses a prefix that no place can lie under.

    Args:
        name: of the parameter that was given the prefix.
        private: whether hosts of private networks are asked; None where that is not looked at.

    Raises:
        ValueError: says what is expected.
    """
    scheme, _, rest = uris.canonical(prefix).partition("://")
    if not prefix.strip():
        raise ValueError(f"`{name}` is empty; name a directory or a URI prefix")
    if "::" in prefix and scheme not in HTTP_SCHEMES:
        raise ValueError(f"`{name}` takes one filesystem, got the chain {redact(prefix)!r}")
    if stores.is_local(uris.canonical(prefix)):
        return _check_local(prefix, name)
    if scheme in HTTP_SCHEMES:
        return _check_http(prefix, rest, name, private)
    if "*" in rest:
        raise ValueError(f"`{name}` takes a prefix and no pattern; leave the `*` of {prefix!r} out")
    if remedy := stores.missing_filesystem(scheme):
        raise ValueError(
            f"`{name}` names {scheme}://, of which no filesystem is installed; {remedy}"
        )


def check_hosts(prefixes: Sequence[str], private: bool) -> None:
    """Refuses prefixes whose host is known here, and is of a private network.

    Raises:
        ValueError: names the parameter that would allow it.
    """
    for prefix in () if private else prefixes:
        try:
            host = parse_url(prefix).host
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        except (RefusedURL, OSError, UnicodeError):
            continue  # the workers may know it
        if not all(map(is_public, found)):
            raise ValueError(
                f"`allow_images_from` names {host}, which is of a private network, where no image "
                "is asked for; pass `allow_private_hosts` if this host is meant"
            )


def _check_local(prefix: str, name: str) -> None:
    path = uris.normalize(prefix)
    if os.path.isfile(path):
        raise ValueError(f"`{name}` takes a directory or a URI prefix, got the file {prefix!r}")
    if os.path.lexists(path):
        return
    if _ONE_SLASH.match(prefix) and not _FILE.match(prefix):
        raise ValueError(f"`{name}` takes a path or a URI with `://`, got {prefix!r}")
    if "*" in path:
        raise ValueError(f"`{name}` takes a prefix and no pattern; leave the `*` of {prefix!r} out")


def _check_http(prefix: str, rest: str, name: str, private: bool | None) -> None:
    if not rest.strip("/"):
        return
    remedy = f"`{name}` takes `https://host/path/`, without user name and query"
    try:
        host = parse_url(prefix).host
    except RefusedURL as error:
        raise ValueError(f"{remedy}; {error}") from None
    if "?" in prefix or "#" in prefix:
        raise ValueError(f"{remedy}; got a prefix with a query")
    if private is not None and (is_literal(host) or host.rstrip(".").endswith("localhost")):
        _check_host(host, prefix, name, private)


def _check_host(host: str, prefix: str, name: str, private: bool) -> None:
    named = is_literal(host)
    if named and is_never(host):
        raise ValueError(f"`{name}` names {host}, which nobody may ask for images")
    if not private and not (named and is_public(host)):
        raise ValueError(
            f"`{name}` names {prefix!r} of a private network, where no image is asked for; pass "
            "`allow_private_hosts` if this host is meant"
        )
