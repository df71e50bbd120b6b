"""Rate limits: a bucket for each key and each address, the time to wait, and the switch that turns them off."""

from __future__ import annotations

import contextlib

import pytest

from node.budget import PAYERS_KEPT, Shares
from node.gateway.errors import ApiError
from node.gateway.limits import Callers, Limits
from tests.unit.node.gateway.harness import Exchange
from tests.waiting import Clock

ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "1", "size": "1"}


def test_callers_are_apart_and_a_refusal_says_how_long_to_wait() -> None:
    clock = Clock()
    callers = Callers(Shares(0.25, clock=clock), "Public rate limit exceeded")
    callers.take("a")
    callers.take("b")
    with pytest.raises(ApiError) as caught:
        callers.take("a")
    assert (caught.value.status, caught.value.message) == (429, "Public rate limit exceeded")
    assert caught.value.headers == {"Retry-After": "4"}
    clock.now += 4.0
    callers.take("a")


def test_an_exhausted_address_is_not_forgotten_and_a_64_is_one_caller() -> None:
    """There were two ways around the address limit (M5): many other addresses, and the addresses of one IPv6 network."""
    limits = Limits(1.0, 0.5, Clock())
    limits.addresses.take("192.0.2.1")
    for number in range(PAYERS_KEPT + 10):
        with contextlib.suppress(ApiError):  # beyond the callers that are kept, new ones share one bucket
            limits.addresses.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    with pytest.raises(ApiError):
        limits.addresses.take("192.0.2.1")
    limits = Limits(1.0, 0.5, Clock())
    limits.addresses.take("2001:db8::1")
    with pytest.raises(ApiError):
        limits.addresses.take("2001:db8::2")


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


async def test_an_address_over_its_limit_reads_429_and_keys_continue(exchange: Exchange) -> None:
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


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("GET", "/accounts", {}, 401),
        ("POST", "/orders", {"Content-Encoding": "gzip"}, 415),
        ("GET", "/nothing", {}, 404),
        ("DELETE", "/time", {}, 405),
        ("GET", "/ws", {}, 426),
        ("GET", "/openapi.json", {}, 200),
    ],
)
async def test_a_request_for_which_no_key_pays_is_paid_by_its_address(
    exchange: Exchange, method: str, target: str, headers: dict[str, str], status: int
) -> None:
    """Formerly such requests were free, so one address could take all the time of a process."""
    exchange.gateway.limits = Limits(1000.0, 1.0, Clock())
    statuses = []
    for _ in range(3):
        async with exchange.client.request(method, target, headers=headers, allow_redirects=False) as response:
            statuses.append(response.status)
    assert statuses == [status, status, 429]
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 200


async def test_the_rows_of_an_answer_count(exchange: Exchange) -> None:
    for price in range(50, 101):
        await exchange.order("alice", "buy", str(price), "1")
    exchange.gateway.limits = Limits(3.0, 1000.0, Clock())
    assert len((await exchange.call("alice", "GET", "/orders"))[1]) == 51
    assert [(await exchange.call("alice", "GET", "/orders?limit=1"))[0] for _ in range(4)] == [200, 200, 200, 429]
