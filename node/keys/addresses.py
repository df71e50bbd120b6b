"""Where requests come from: networks that a key is limited to, and addresses as clients and proxies show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED = "X-Forwarded-For"
"""The header in which each proxy appends whom it got the request from."""

_MAPPED_BITS = 96
"""An IPv4 address stands in the last 32 bits of an IPv4-mapped IPv6 address."""


def network(text: str) -> Network:
    """A network such as "192.0.2.0/24", or a lone address; one of IPv4-mapped IPv6 addresses is the IPv4 network that
    it stands for.

    Raises:
        ValueError: it is none, or has bits behind its prefix.
    """
    found = ip_network(text)
    if isinstance(found, IPv6Network) and found.prefixlen >= _MAPPED_BITS:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((int(mapped), found.prefixlen - _MAPPED_BITS))
    return found


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks from text. Raises ValueError for one that is none."""
    return tuple(network(text) for text in texts)


def of_key(addresses: str) -> tuple[Network, ...]:
    """The networks in the field `addresses` of a key."""
    return networks(addresses.split(",")) if addresses else ()


def parse(text: str) -> Address | None:
    """An address as sockets and proxies write it, perhaps with a port, brackets or a zone; None if it is none.
    IPv4-mapped ones become IPv4.
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
    """Whether a key limited to these networks (none: to nothing) may be used from the address. One that is not known is
    nowhere.
    """
    if not limits:
        return True
    found = parse(address)
    return found is not None and any(found in each for each in limits)


def client_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network]) -> str:
    """Who sent a request: the peer, or behind trusted proxies the last address that is none of theirs.

    Args:
        forwarded: the values of the request's `FORWARDED` headers, in order. Only what trusted proxies appended counts:
            anybody can send the header.
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
