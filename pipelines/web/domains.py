"""Reads the host of a URL as browsers do (WHATWG URL, host parsing), before anybody looks at it.

Names are IDNA 2008, as UTS 46 maps them without its transitional rules: `straße` and `strasse` are
two hosts. What ends in a number is an IPv4 address, in whatever spelling, or no host.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote_to_bytes

import idna

# What no name may hold, percent signs among it, as decoding is done once.
_FORBIDDEN = re.compile('[\0-\x20\x7f"#%/:<>?@\\[\\\\\\]^`{|}]')
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
_MAX_TEXT = 1000
_JOINERS = "\u200c\u200d"


def host_of(text: str) -> str:
    """Returns a host in the one spelling that is looked at and connected to.

    Returns:
        A name in lower case and ASCII, an IPv4 address in four decimal parts, or an IPv6 address
        without brackets.

    Raises:
        ValueError: if it is no host.
    """
    if text.startswith("["):
        if not text.endswith("]") or "%" in text:
            raise ValueError("not an IPv6 address")
        return str(ipaddress.IPv6Address(text[1:-1]))
    if "%" in text:
        text = unquote_to_bytes(text).decode()
    name = _ascii_name(text)
    if not name or _FORBIDDEN.search(name):
        raise ValueError("not a host name")
    if _ends_in_number(name):
        return _ipv4(name)
    return name


def _ascii_name(text: str) -> str:
    if len(text) > _MAX_TEXT:
        raise ValueError("a host name that is too long")
    if text.isascii() and "xn--" not in text.lower():
        return text.lower()  # underscores and hyphens where they are, as DNS has them
    mapped = idna.uts46_remap(text, std3_rules=False)
    return ".".join(_ascii_label(label) for label in mapped.split("."))


def _ascii_label(label: str) -> str:
    if label.startswith("xn--"):
        if not label.isascii():
            raise ValueError("an encoded label with other characters in it")
        _check(label[4:].encode().decode("punycode"))
        return label
    if label.isascii():
        return label
    _check(label)
    return "xn--" + label.encode("punycode").decode()


def _check(label: str) -> None:
    """Refuses what UTS 46 finds no label; unlike registries it takes symbols, such as hearts."""
    if label.isascii() or idna.uts46_remap(label, std3_rules=False) != label:
        raise ValueError("not a label as names have it")
    idna.check_nfc(label)
    idna.check_initial_combiner(label)
    idna.check_bidi(label)
    for position, character in enumerate(label):
        if character in _JOINERS and not idna.valid_contextj(label, position):
            raise ValueError("a joiner that joins nothing")


def _ends_in_number(name: str) -> bool:
    parts = name.removesuffix(".").split(".")
    return bool(_NUMBER.fullmatch(parts[-1]))


def _ipv4(name: str) -> str:
    """Reads one to four numbers, decimal, octal or hexadecimal; the last fills what is left."""
    parts = [_number(part) for part in name.removesuffix(".").split(".")]
    last = 256 ** (5 - len(parts)) if len(parts) <= 4 else 0
    if any(part > 255 for part in parts[:-1]) or parts[-1] >= last:
        raise ValueError("not an IPv4 address")
    value = parts[-1] + sum(part << 8 * (3 - place) for place, part in enumerate(parts[:-1]))
    return str(ipaddress.IPv4Address(value))


def _number(part: str) -> int:
    if part[:2] in ("0x", "0X"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if len(part) > 1 and part[0] == "0" else 10)
