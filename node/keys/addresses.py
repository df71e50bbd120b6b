"""The addresses of clients, and the networks that an API key is limited to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED = "X-Forwarded-For"
"""The header to which each proxy appends the address from which it received the request."""

_MAPPED_BITS = 96
"""Bits before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2)."""


def network(text: str) -> Network:
    """Return a network such as "192.0.2.0/24", or the network of a single address. A network of IPv4-mapped IPv6
    addresses becomes the IPv4 network.

    Raises:
        ValueError: the text is not a network, or has bits set after its prefix.
    """
    found = ip_network(text)
    if isinstance(found, IPv6Network) and found.prefixlen >= _MAPPED_BITS:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((int(mapped), found.prefixlen - _MAPPED_BITS))
    return found


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks. Raises ValueError for a text that is not a network."""
    return tuple(network(text) for text in texts)


def of_key(addresses: str) -> tuple[Network, ...]:
    """Return the networks in the field `addresses` of a key. No network means any address."""
    return networks(addresses.split(",")) if addresses else ()


def parse(text: str) -> Address | None:
    """Return an address that a socket or a proxy wrote, perhaps with a port, brackets or a zone. Returns None if the
    text is not an address. An IPv4-mapped address becomes an IPv4 address.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped


def allowed(address: str, limits: Sequence[Network]) -> bool:
    """Return whether a key with these networks may be used from the address. A key without networks may be used from
    any address. An unreadable address is in no network.
    """
    if not limits:
        return True
    found = parse(address)
    return found is not None and any(found in each for each in limits)


def client_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network]) -> str:
    """Return the address that sent a request: the peer, or the last address before the trusted proxies.

    Args:
        forwarded: the values of the request's `FORWARDED` headers, in order. Only the addresses that trusted proxies
            appended count, because anybody can send the header.
        proxies: the networks of trusted proxies.
    """
    client = parse(peer)
    if client is None:
        return peer
    hops = [hop for value in forwarded for hop in value.split(",")]
    while hops and any(client in each for each in proxies):
        hop = parse(hops.pop())
        if hop is None:
            break
        client = hop
    return str(client)
