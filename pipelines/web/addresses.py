"""Tells the addresses of the public network, in every spelling, from those that are not."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not public, whatever the release of Python says of them.
_LOCAL = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "3fff::/20", "5f00::/16")))
_ISATAP = (0x00005EFE, 0x02005EFE)  # before the IPv4 address in the lower half
# Where clouds tell machines their secrets, beside link-local addresses; some look public.
_SECRETS = frozenset(
    map(ipaddress.ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"))
)


def is_public(text: str) -> bool:
    """Tells whether an address belongs to a host of the public network, in every spelling of it."""
    return all(_is_global(one) for one in _read_as(text))


def is_never(text: str) -> bool:
    """Tells whether nobody can allow an address: metadata of a cloud, or of no host at all."""
    return any(
        one in _SECRETS or one.is_link_local or one.is_multicast or one.is_unspecified
        for one in _read_as(text)
    )


def is_literal(host: str) -> bool:
    """Tells whether a host is an address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _read_as(text: str) -> list[Address]:
    """Returns the addresses that packets to an address may end up at."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    inner: list[Address | None] = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *(one for one in inner if one is not None)]


def _is_global(address: Address) -> bool:
    # `is_global` says yes to multicast and, in some releases, to site-local addresses.
    local = getattr(address, "is_site_local", False) or any(address in net for net in _LOCAL)
    secret = address in _SECRETS or address.is_multicast or address.is_reserved
    return address.is_global and not (local or secret)
