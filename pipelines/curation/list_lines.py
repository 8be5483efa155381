"""What a line of a list means, and what of a row it is compared with: keys of 128 bits.

A key is a hash of a kind and a value, so that an id never equals a host of the same letters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache

KEY_BYTES = 16
UID, SHA256, URL, HOST = KINDS = ("uid", "sha256", "url", "host")
_DIGEST = re.compile("[0-9A-Fa-f]{64}")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*|\[?[0-9a-f:.]+\]?")
_SHOWN_CHARS = 60

Key = tuple[str, bytes]  # a kind, and the hash


class BadLineError(ValueError):
    """A line of a list that means nothing: says what was expected."""


def keys_of_line(line: str) -> list[Key]:
    """Returns what a line names; nothing for a blank one and for a comment.

    Without a prefix, 64 hex digits are a sha256 or an equal uid, what holds `://` is a url, and
    the rest is a uid, or also a host if it has a dot.

    Raises:
        BadLineError: if what follows a prefix is none of its kind.
    """
    text = line.strip()
    if not text or text.startswith("#"):
        return []
    prefix, colon, rest = text.partition(":")
    if colon and prefix.lower() in KINDS:
        return [_named(prefix.lower(), rest.strip())]
    if _DIGEST.fullmatch(text):
        return [(SHA256, key(SHA256, text.lower())), (UID, key(UID, text))]
    if "://" in text:
        return [(URL, key(URL, same_url(text)))]
    host = _listed_host(text) if "." in text else None
    named = [] if host is None else [(HOST, key(HOST, host))]
    return [(UID, key(UID, text)), *named]


def _named(kind: str, value: str) -> Key:
    found: str | None = value
    if kind == SHA256:
        found = value.lower() if _DIGEST.fullmatch(value) else None
    elif kind == HOST:
        found = _listed_host(value)
    elif kind == URL:
        found = same_url(value)
    if not found:
        what = "64 hex digits" if kind == SHA256 else f"a {kind}"
        raise BadLineError(f"expected {what} behind `{kind}:`, got {value[:_SHOWN_CHARS]!r}")
    return kind, key(kind, found)


def key(kind: str, value: str) -> bytes:
    """Returns the 16 bytes that stand for a value of a kind."""
    text = f"{kind}:{value}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def same_url(url: str) -> str:
    """Returns a URL with scheme and host in the one form that they are compared in."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    place, tail = _split_place(rest)
    user, at, host = place.rpartition("@")
    name, port = _split_port(host)
    return f"{scheme.lower()}://{user}{at}{_same_host(name) or name}{port}{tail}"


@lru_cache(maxsize=1 << 16)
def keys_of_place(place: str) -> tuple[bytes, ...]:
    """Returns keys of the host in a URL's place, and of every domain that it lies in."""
    host = _same_host(_split_port(place.rpartition("@")[2])[0])
    return () if host is None else tuple(key(HOST, domain) for domain in _domains(host))


def place_of_url(url: str) -> str | None:
    """Returns what stands between `://` and the path of an http(s) URL; None of another."""
    scheme, _, rest = url.partition("://")
    return _split_place(rest)[0] if rest and scheme.lower() in ("http", "https") else None


def _domains(host: str) -> Iterator[str]:
    yield host
    labels = host.split(".")
    if labels[-1].isdigit() or ":" in host:  # an address lies in no domain
        return
    for start in range(1, len(labels)):
        yield ".".join(labels[start:])


def _listed_host(text: str) -> str | None:
    host = _same_host(text.removeprefix("*").removeprefix("."))
    return host if host and _HOST.fullmatch(host) else None


def _same_host(name: str) -> str | None:
    """Returns a host in lower case and IDNA, without the root's dot; None of what is no host."""
    try:
        name = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:  # an empty label, or one that is too long
        return None
    return name.lower().rstrip(".") or None


def _split_place(rest: str) -> tuple[str, str]:
    """Splits what follows `://` where the path, the query or the fragment begins."""
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    return rest[:end], rest[end:]


def _split_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    is_port = colon and "]" not in port and (":" not in name or name.endswith("]"))
    return (name, colon + port) if is_port else (host, "")
