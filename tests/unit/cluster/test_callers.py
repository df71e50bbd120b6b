"""Callers of the Raft port have a rate and a share of the connections, and the log lines about them have a rate too."""

from __future__ import annotations

import socket

import pytest

from cluster import wire
from cluster.callers import (
    ADDRESSES_MAX,
    LINES_BURST,
    NON_PEER_BURST,
    NON_PEER_RATE,
    NON_PEERS_BURST,
    PEER_BURST,
    REPEATED_EVERY,
    UNKNOWN_CALLERS_MAX,
    UNKNOWN_OF_ADDRESS_MAX,
    Doorkeeper,
    RefusalLog,
    caller_of,
)


class Now:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def admitted(door: Doorkeeper, host: str, calls: int) -> int:
    """Return how many of so many calls in sequence are admitted."""
    count = 0
    for _ in range(calls):
        if door.refusal(host) is None:
            count += 1
            door.leaves(host)
    return count


def test_an_address_has_a_rate() -> None:
    now = Now()
    door = Doorkeeper(now)
    assert admitted(door, "10.0.0.9", 1_000) == NON_PEER_BURST
    assert door.refusal("10.0.0.9") == ("too_often", "too many calls")
    assert admitted(door, "10.0.0.8", 1) == 1, "another address has its own"
    now.seconds += 1.0
    assert admitted(door, "10.0.0.9", 1_000) == NON_PEER_RATE


def test_a_peers_address_has_a_larger_share_that_unknown_callers_do_not_use_up() -> None:
    door = Doorkeeper(Now())
    door.peers = frozenset({"10.0.0.1"})
    for number in range(200):
        admitted(door, f"192.0.2.{number}", 10)
    assert admitted(door, "198.51.100.1", 1) == 0, "all strangers together have a rate"
    assert admitted(door, "10.0.0.1", 1_000) == PEER_BURST


def test_all_unknown_callers_together_have_a_rate() -> None:
    door = Doorkeeper(Now())
    assert sum(admitted(door, f"10.0.{number // 256}.{number % 256}", 1) for number in range(1_000)) == NON_PEERS_BURST


def test_silent_callers_of_one_address_leave_room_for_others() -> None:
    door = Doorkeeper(Now())
    door.peers = frozenset({"10.0.0.1", "10.0.0.2", "10.0.0.3"})
    assert sum(door.refusal("10.0.0.1") is None for _ in range(90)) == UNKNOWN_OF_ADDRESS_MAX
    assert door.refusal("10.0.0.2") is None
    assert sum(door.refusal("10.0.0.2") is None for _ in range(90)) == UNKNOWN_CALLERS_MAX - UNKNOWN_OF_ADDRESS_MAX - 1
    assert door.refusal("10.0.0.3") == ("too_many", "too many callers that do not say who they are")
    door.leaves("10.0.0.1")
    assert door.refusal("10.0.0.3") is None
    assert door.unknown == UNKNOWN_CALLERS_MAX


def test_the_number_of_kept_callers_is_bounded() -> None:
    door = Doorkeeper(Now())
    for number in range(ADDRESSES_MAX + 100):
        admitted(door, f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", 1)
    assert len(door._allowances) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("node-1.example", "node-1.example"),
    ],
)
def test_the_rate_of_an_address_depends_on_whether_a_peer_has_it(host: str, caller: str) -> None:
    assert caller_of(host) == caller


def test_a_refusal_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    now = Now()
    refusals = RefusalLog(now)
    for _ in range(100):
        refusals.note("n2", "n2 has abi 1, this node 2")
        now.seconds += 0.17
    assert len(caplog.records) == 1
    refusals.note("n2", "n2 has abi 3, this node 2")
    assert len(caplog.records) == 2
    refusals.connected("n2")
    refusals.connected("n2")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO"]
    refusals.note("n2", "n2 has abi 3, this node 2")
    assert len(caplog.records) == 4, "after a connection the refusal is logged again"


def test_a_refusal_that_continues_is_logged_again_with_its_number(caplog: pytest.LogCaptureFixture) -> None:
    now = Now()
    refusals = RefusalLog(now)
    for _ in range(10):
        refusals.note("n2", "another ABI")
    now.seconds += REPEATED_EVERY
    refusals.note("n2", "another ABI")
    assert "another ABI (9 more times in the last 600 s)" in caplog.text


def test_many_addresses_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = Now()
    refusals = RefusalLog(now)
    for number in range(1_000):
        refusals.note(f"10.0.{number // 256}.{number % 256}", "no TLS handshake")
    assert len(caplog.records) == LINES_BURST
    now.seconds += 60
    refusals.note("n2", "another ABI")
    assert "another ABI; 980 other refusals were not logged" in caplog.text


@pytest.mark.parametrize(("addresses", "chosen"), [(["::1"], "::1"), (["::1", "127.0.0.1"], "127.0.0.1")])
def test_a_name_may_have_only_an_ipv6_address(addresses: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    families = {"::1": socket.AF_INET6, "127.0.0.1": socket.AF_INET}
    found = [(families[each], socket.SOCK_STREAM, 6, "", (each, 7001)) for each in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert wire._listening_place("n1.example", 7001) == (families[chosen], (chosen, 7001))
