"""The addresses of requests, and the limits of keys to addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.keys import addresses

PROXIES = addresses.networks(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::/0", "::/0"),
    ],
)
def test_networks_are_written_in_one_way(text: str, canonical: str) -> None:
    assert str(addresses.network(text)) == canonical


@pytest.mark.parametrize("text", ["", "192.0.2.1/24", "192.0.2.0/33", "300.0.0.1", "example.org", "192.0.2.0/24,", "*"])
def test_text_that_is_not_a_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        addresses.network(text)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.9", True),
        ("::ffff:192.0.2.9", True),
        ("192.0.3.9", False),
        ("2001:db8:1::1", True),
        ("2001:db8:1::1%eth0", True),
        ("2001:db9::1", False),
        ("", False),
        ("unix", False),
    ],
)
def test_a_limited_key_is_used_from_its_networks_only(address: str, allowed: bool) -> None:
    assert addresses.allowed(address, addresses.of_key("192.0.2.0/24,2001:db8::/32")) is allowed
    assert addresses.allowed(address, addresses.of_key(""))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["192.0.2.1"], "198.51.100.1"),  # a stranger's header is not believed
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.9, 192.0.2.1"], "192.0.2.1"),  # the client's own header comes first
        ("10.0.0.1", ["203.0.113.9", "192.0.2.1, 10.9.9.9"], "192.0.2.1"),
        ("10.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ("10.0.0.1", ["192.0.2.1:4711"], "192.0.2.1"),
        ("fd00::1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),  # nothing behind what cannot be read counts
        ("10.0.0.1", [""], "10.0.0.1"),
        ("", ["192.0.2.1"], ""),
    ],
)
def test_the_client_behind_trusted_proxies_is_found(peer: str, forwarded: list[str], client: str) -> None:
    assert addresses.client_address(peer, forwarded, PROXIES) == client


@given(st.lists(st.text(max_size=20), max_size=4), st.ip_addresses())
def test_a_forwarding_header_of_a_direct_client_is_ignored(forwarded: list[str], peer: addresses.Address) -> None:
    assert addresses.client_address(str(peer), forwarded, ()) == str(addresses.parse(str(peer)))


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_none(text: str) -> None:
    found = addresses.parse(text)
    assert found is None or addresses.parse(str(found)) == found
