"""A signed request is executed once, whoever sends it again. What a gateway itself repeats does not count as a
repetition.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from node.gateway import replays
from node.gateway.errors import ApiError, UnavailableError
from node.gateway.gateway import build
from node.gateway.replays import Replays, signed_id
from node.gateway.values import order_text
from tests.unit.node.gateway.harness import Exchange, headers

ORDER = {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1"}
FORGOTTEN = 10_001


async def again(exchange: Exchange, who: str, method: str, target: str, body: object = None, timestamp: str | None = None) -> Any:
    """Return a function that sends one signed request, the same each time."""
    data = b"" if body is None else json.dumps(body).encode()
    signed = headers(exchange.keys[who], method, target, data, timestamp)

    async def send() -> tuple[int, Any]:
        response = await exchange.client.request(method, target, data=data or None, headers=signed, allow_redirects=False)
        return response.status, json.loads(await response.read())

    return send


def forget_here(exchange: Exchange) -> None:
    """Empty this gateway's cache, as if the request had reached another gateway."""
    exchange.gateway.replays = build(exchange.gateway.config, exchange.backend).replays
    exchange.backend.follow_keys(exchange.gateway.auth._changed)


REQUESTS = [
    ("alice", "POST", "/orders", ORDER, "it placed order"),
    ("alice", "POST", "/orders", ORDER | {"price": "99999999"}, "it was refused (insufficient_funds)"),
    ("alice", "POST", "/orders/batch", {"orders": [ORDER, ORDER]}, "it placed order"),
    ("alice", "POST", "/withdrawals", {"currency": "USD", "amount": "1"}, "it was booked"),
    ("alice", "DELETE", "/orders", None, "it cancelled"),
    ("admin", "PUT", "/admin/accounts/carol", None, "it was done"),
    ("admin", "POST", "/admin/keys", {"account_id": "alice", "permissions": ["view"]}, "it was"),
    ("admin", "POST", "/admin/accounts/alice/deposits", {"currency": "USD", "amount": "1"}, "it was booked"),
]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(("who", "method", "target", "body", "first"), REQUESTS)
async def test_a_request_is_carried_out_once(
    exchange: Exchange, who: str, method: str, target: str, body: object, first: str, elsewhere: bool
) -> None:
    send = await again(exchange, who, method, target, body)
    await send()
    hash_before, tables = exchange.backend.engine.sequence, dict(exchange.backend.engine.tables())
    if elsewhere:
        forget_here(exchange)
    status, answer = await send()
    assert (status, answer["message"], answer["reason"], answer["field"]) == (
        400,
        "request replayed",
        "replayed",
        "CB-ACCESS-SIGN",
    )
    assert first in answer["detail"]
    assert "another timestamp" in answer["detail"]
    assert elsewhere or exchange.backend.engine.sequence == hash_before
    after = dict(exchange.backend.engine.tables())
    assert {name: rows for name, rows in after.items() if name != "counter"} == {
        name: rows for name, rows in tables.items() if name != "counter"
    }


NEW_PRODUCT = {"base_currency": "BTC", "quote_currency": "USD", "base_increment": "0.01", "quote_increment": "1"}


async def test_a_product_that_came_in_between_has_no_order_of_a_batch_placed_again(exchange: Exchange) -> None:
    orders = [ORDER | {"product_id": "AAA-USD"}, ORDER, ORDER | {"price": "101"}]
    send = await again(exchange, "alice", "POST", "/orders/batch", {"orders": orders})
    status, answer = await send()
    assert (status, [result["success"] for result in answer["results"]]) == (200, [False, True, True])
    assert (await exchange.call("admin", "PUT", "/admin/products/AAA-USD", NEW_PRODUCT))[0] == 200
    forget_here(exchange)
    assert (await send())[1]["message"] == "request replayed"
    placed = (await exchange.call("alice", "GET", "/orders"))[1]
    assert len([order for order in placed if order["product_id"] == "BTC-USD"]) == 2


async def test_a_replayed_batch_of_statuses_changes_no_product_that_came_in_between(exchange: Exchange) -> None:
    send = await again(exchange, "admin", "PATCH", "/admin/products", {"status": "offline"})
    assert (await send())[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/products/AAA-USD", NEW_PRODUCT))[0] == 200
    assert (await exchange.call("admin", "PATCH", "/admin/products/ETH-BTC", {"status": "online"}))[0] == 200
    forget_here(exchange)
    assert (await send())[1]["message"] == "request replayed"
    statuses = {product["id"]: product["status"] for product in (await exchange.get("/products"))[1]}
    assert statuses["ETH-BTC"] == "online"


async def test_an_equal_request_signed_again_is_another(exchange: Exchange) -> None:
    first, second = await exchange.order("alice", "buy", "100", "1"), await exchange.order("alice", "buy", "100", "1")
    assert first["id"] != second["id"]


async def test_a_client_oid_gets_the_first_outcome_as_before(exchange: Exchange) -> None:
    send = await again(exchange, "alice", "POST", "/orders", ORDER | {"client_oid": "mine"})
    assert await send() == await send()


async def test_a_request_that_was_never_executed_may_be_repeated(exchange: Exchange) -> None:
    send = await again(exchange, "alice", "POST", "/orders", ORDER)
    for unknown in (False, True):
        exchange.backend.fail.append(UnavailableError("nobody", outcome_unknown=unknown))
        assert (await send())[0] == (504 if unknown else 503)
    status, placed = await send()
    assert (status, placed["id"]) == (200, order_text(1))
    assert (await send())[0] == 400


async def test_an_unknown_outcome_is_reported_when_the_request_comes_again(exchange: Exchange) -> None:
    send = await again(exchange, "alice", "POST", "/orders", ORDER)
    assert (await send())[0] == 200
    forget_here(exchange)
    status, answer = await send()
    assert status == 400
    assert f"it placed order {order_text(1)}" in answer["detail"]


async def test_a_gateway_that_sends_again_after_a_failover_is_not_a_replay(exchange: Exchange) -> None:
    send = await again(exchange, "alice", "POST", "/orders", ORDER)
    exchange.backend.lost_answers = 1
    status, placed = await send()
    assert (status, placed["id"]) == (200, order_text(1))
    assert len((await exchange.call("alice", "GET", "/orders"))[1]) == 1


async def test_a_replay_that_a_gateway_sends_again_is_one_all_the_same(exchange: Exchange) -> None:
    send = await again(exchange, "alice", "POST", "/orders", ORDER)
    assert (await send())[0] == 200
    await exchange.gateway.monitor.poll()
    forget_here(exchange)
    exchange.backend.lost_answers = 1
    status, answer = await send()
    assert (status, answer["message"]) == (400, "request replayed")


async def test_cancels_in_whole_seconds_may_be_equal_for_a_moment(exchange: Exchange) -> None:
    stamp = str(int(time.time()))
    send = await again(exchange, "alice", "DELETE", "/orders", timestamp=stamp)
    for _ in range(2):
        placed = await exchange.order("alice", "buy", "100", "1")
        assert await send() == (200, [placed["id"]])
    forget_here(exchange)
    assert await send() == (200, [])
    exchange.gateway.auth.now = lambda: float(stamp) + replays.REPEAT_SECONDS
    placed = await exchange.order("alice", "buy", "100", "1")
    for _ in range(2):
        status, answer = await send()
        assert (status, answer["message"]) == (400, "request replayed")
        forget_here(exchange)
    assert [order["id"] for order in (await exchange.call("alice", "GET", "/orders"))[1]] == [placed["id"]]


async def test_reads_may_be_repeated(exchange: Exchange) -> None:
    send = await again(exchange, "alice", "GET", "/accounts")
    assert await send() == await send()


class TestMemory:
    def test_a_signature_is_kept_as_long_as_it_is_good(self) -> None:
        now = [0.0]
        memory = Replays(60.0, clock=lambda: now[0])
        memory.begin("s:1")
        for moment in (0.0, 59.9):
            now[0] = moment
            with pytest.raises(ApiError, match="request replayed"):
                memory.begin("s:1")
        now[0] = 60.1
        memory.begin("s:1")

    def test_the_number_of_kept_signatures_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replays, "KEPT_MAX", 3)
        memory = Replays(60.0, clock=lambda: 0.0)
        for number in range(5):
            memory.begin(f"s:{number}")
        memory.begin("s:0")
        with pytest.raises(ApiError):
            memory.begin("s:4")

    def test_ids_are_in_a_namespace_of_their_own(self) -> None:
        found = signed_id("key", "signature")
        assert len(found) == 66
        assert replays.is_signed(found)
        assert replays.is_signed(f"{found}:99")
        assert not replays.is_signed("s:short")
        assert not replays.is_signed("c:" + "a" * 64)
        assert signed_id("ke", "ysignature") != found
        assert signed_id("key", "signaturf") != found
