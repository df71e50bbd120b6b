"""Rate limits: a bucket a key and an address, the time to wait, and the switch that turns them off."""

from __future__ import annotations

import pytest

from node.gateway.errors import ApiError
from node.gateway.limits import CALLERS_KEPT, Bucket, Callers, Limits
from tests.unit.node.gateway.harness import Exchange

ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "1", "size": "1"}


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=2.0, burst=4.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert bucket.take(0.5) == 0.0
    assert bucket.take(0.5) == 0.5
    assert [bucket.take(1_000.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]


def test_what_was_spent_beyond_is_waited_for() -> None:
    bucket = Bucket(rate=2.0, burst=4.0, now=0.0)
    bucket.spend(9)
    assert bucket.wait(0.0) == 3.0
    assert bucket.take(3.0) == 0.0


def test_callers_are_apart_and_a_refusal_says_how_long_to_wait() -> None:
    clock = Clock()
    callers = Callers(0.25, "Public rate limit exceeded", clock)
    callers.take("a")
    callers.take("b")
    with pytest.raises(ApiError) as caught:
        callers.take("a")
    assert (caught.value.status, caught.value.message) == (429, "Public rate limit exceeded")
    assert caught.value.headers == {"Retry-After": "4"}
    clock.now += 4.0
    callers.take("a")


def test_a_rate_of_zero_is_no_limit() -> None:
    callers = Callers(0.0, "", Clock())
    callers.spend("a", 1_000)
    for _ in range(1_000):
        callers.take("a")


def test_callers_beyond_those_kept_are_forgotten() -> None:
    callers = Callers(0.5, "", Clock())
    callers.take("first")
    for number in range(CALLERS_KEPT):
        callers.take(str(number))
    callers.take("first")


async def test_a_key_over_its_limit_reads_429_and_another_does_not(exchange: Exchange) -> None:
    clock = Clock()
    exchange.gateway.limits = Limits(1.0, 1000.0, clock)
    answers = [await exchange.call("alice", "GET", "/accounts") for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 429]
    assert answers[2][1]["message"] == "Private rate limit exceeded"
    assert (await exchange.call("bob", "GET", "/accounts"))[0] == 200
    response = await exchange.send("alice", "GET", "/accounts")
    assert response.headers["Retry-After"] == "1"
    clock.now += 1.0
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 200


async def test_every_order_of_a_batch_counts(exchange: Exchange) -> None:
    clock = Clock()
    exchange.gateway.limits = Limits(5.0, 1000.0, clock)
    assert (await exchange.call("alice", "POST", "/orders/batch", {"orders": [ORDER] * 10}))[0] == 200
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 429


async def test_an_address_over_its_limit_reads_429_and_keys_go_on(exchange: Exchange) -> None:
    exchange.gateway.limits = Limits(1000.0, 1.0, Clock())
    assert [(await exchange.get("/time"))[0] for _ in range(3)] == [200, 200, 429]
    assert (await exchange.get("/time"))[1]["message"] == "Public rate limit exceeded"
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 200
    assert (await exchange.get("/healthz"))[0] == 200


async def test_signatures_that_do_not_fit_count_for_the_address_not_for_the_key(exchange: Exchange) -> None:
    exchange.gateway.limits = Limits(1.0, 1.0, Clock())
    signed = {f"CB-ACCESS-{name}": "alice-key" for name in ("KEY", "SIGN", "PASSPHRASE")} | {"CB-ACCESS-TIMESTAMP": "1"}
    statuses = []
    for _ in range(3):
        async with exchange.client.get("/accounts", headers=signed) as response:
            statuses.append(response.status)
    assert statuses == [401, 401, 429]
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 200
