"""Budgets: shares are kept, memory is bounded, and no client gets a new bucket because its old one was forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.budget import WIDE_FACTOR, AddressShares, Bucket, Places, Shares, caller_of, networks
from tests.waiting import Clock


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = Bucket(rate=10, burst=20, now=0)
    assert [bucket.take(0) for _ in range(20)] == [0.0] * 20
    assert bucket.take(0) == pytest.approx(0.1)
    assert bucket.take(1, cost=10) == 0
    assert bucket.take(1) == pytest.approx(0.1)


def test_a_cost_above_the_burst_needs_a_full_bucket_and_is_paid_off() -> None:
    bucket = Bucket(rate=10, burst=20, now=0)
    assert bucket.take(0, cost=50) == 0
    assert bucket.take(0) == pytest.approx(3.1)
    assert bucket.take(5, cost=50) == 0
    bucket = Bucket(rate=10, burst=20, now=0)
    bucket.spend(1)
    assert bucket.wait(0, cost=50) == pytest.approx(0.1)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 30)), max_size=60))
def test_no_payer_spends_more_than_rate_and_burst(steps: list[tuple[float, float]]) -> None:
    bucket, now, spent = Bucket(rate=10, burst=20, now=0), 0.0, 0.0
    for pause, cost in steps:
        now += pause
        if not bucket.take(now, cost):
            spent += cost
    assert spent <= 20 + 10 * now + 30 + 1e-6  # one request may go into debt


def test_a_payer_that_is_out_of_budget_is_not_forgotten() -> None:
    clock = Clock()
    shares: Shares[str] = Shares(10, 20, kept=100, clock=clock)
    assert shares.take("greedy", 20) == 0
    assert all(shares.take(f"other {number}") == 0 for number in range(99))
    for number in range(10_000):
        shares.take(f"crowd {number}")
    assert shares.take("greedy") > 0
    assert len(shares) == 100


def test_newcomers_share_one_bucket_while_there_is_not_a_room() -> None:
    clock = Clock()
    shares: Shares[int] = Shares(10, 20, kept=10, clock=clock)
    assert sum(not shares.take(number) for number in range(1_000)) == 10 + 20
    clock.now += 5
    assert shares.take(5_000) == 0
    assert len(shares) == 10


def test_an_indebted_bucket_does_not_keep_full_ones_from_being_forgotten() -> None:
    clock = Clock()
    shares: Shares[str] = Shares(10, 20, kept=3, clock=clock)
    shares.spend("indebted", 1_000)
    shares.take("a")
    shares.take("b")
    clock.now += 1
    assert shares.take("c", 20) == 0
    assert shares.take("indebted") > 90


def test_a_rate_of_zero_means_no_limit() -> None:
    shares: Shares[str] = Shares(0)
    shares.spend("a", 1e9)
    assert shares.take("a", 1e9) == 0
    assert len(shares) == 0


@pytest.mark.parametrize(
    ("address", "caller", "site"),
    [
        ("192.0.2.7", "192.0.2.7", ""),
        ("::ffff:192.0.2.7", "192.0.2.7", ""),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002::/64", "2001:0db8:0001::/48"),
        ("fe80::1%eth0", "fe80:0000:0000:0000::/64", "fe80:0000:0000::/48"),
        ("", "", ""),
        ("unix", "unix", ""),
    ],
)
def test_an_address_has_a_caller_and_a_site(address: str, caller: str, site: str) -> None:
    assert networks(address) == (caller, site)
    assert caller_of(address) == caller


def test_addresses_of_one_64_are_one_caller_and_a_48_has_a_bound() -> None:
    clock = Clock()
    shares = AddressShares(1, 2, clock=clock)
    assert sum(not shares.take(f"2001:db8::{number:x}") for number in range(1_000)) == 2
    taken = sum(not shares.take(f"2001:db8:0:{number:x}::1") for number in range(1, 1_000))
    assert taken == 2 * WIDE_FACTOR - 2
    assert shares.take("192.0.2.1") == 0


def test_each_holder_has_a_bounded_number_of_places() -> None:
    places: Places[str] = Places(total=5, each=2)
    assert [places.enter("a") for _ in range(3)] == [True, True, False]
    assert [places.enter(holder) for holder in "bbcd"] == [True, True, True, False]
    places.leave("a")
    assert places.enter("d")
    assert (places.taken, places.held("a"), places.held("x")) == (5, 1, 0)


def test_a_payer_with_one_unit_left_may_spend_more_than_that() -> None:
    now = 0.0
    shares: Shares[str] = Shares(10.0, 5.0, clock=lambda: now)
    assert shares.overdraw("a", 4.0) == 0.0
    assert shares.overdraw("a", 7.0) == 0.0
    assert shares.overdraw("a", 1.0) == pytest.approx(0.7)
    assert shares.wait("a") == pytest.approx(0.7), "a refused request is not charged"
    assert Shares[str](0.0).overdraw("a", 100.0) == 0.0
