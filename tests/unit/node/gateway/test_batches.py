"""Batches: one log entry, a result for each item, and rejects that affect no other item."""

from __future__ import annotations

from statemachine.commands import PlaceOrder
from tests.unit.node.gateway.harness import Exchange

GOOD = {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1"}


async def test_orders_are_placed_together_each_with_its_result(exchange: Exchange) -> None:
    before = exchange.backend.engine.sequence
    orders = [
        GOOD | {"client_oid": "one"},
        GOOD | {"price": "0.001"},
        GOOD | {"price": "30000000", "client_oid": "poor"},
        GOOD | {"product_id": "NO-USD"},
        GOOD | {"client_oid": "two"},
    ]
    status, answer = await exchange.call("alice", "POST", "/orders/batch", {"orders": orders})
    assert status == 200
    results = answer["results"]
    assert [result["success"] for result in results] == [True, False, False, False, True]
    assert results[0]["order"]["client_oid"] == results[0]["client_oid"] == "one"
    assert [result["error"]["message"] for result in results[1:4]] == [
        "price too precise",
        "Insufficient funds",
        "Product not found",
    ]
    assert results[2]["client_oid"] == "poor"
    assert exchange.backend.engine.sequence == before + 3, "orders that the gateway rejects are not sent"
    assert exchange.backend.batches[-1] == 3


async def test_a_batch_again_places_nothing_twice(exchange: Exchange) -> None:
    body = {"orders": [GOOD | {"client_oid": f"again-{number}"} for number in range(3)]}
    first = await exchange.call("alice", "POST", "/orders/batch", body)
    assert await exchange.call("alice", "POST", "/orders/batch", body) == first
    assert len(exchange.backend.engine.orders("alice")) == 3


async def test_orders_are_cancelled_by_both_ids(exchange: Exchange) -> None:
    kept = await exchange.order("alice", "buy", "100", "1")
    named = await exchange.order("alice", "buy", "101", "1", client_oid="named")
    foreign = await exchange.order("bob", "buy", "99", "1")
    ids = [kept["id"], foreign["id"], "ffffffff-ffff-ffff-ffff-ffffffffffff"]
    body = {"order_ids": ids, "client_oids": ["named", "unknown"]}
    status, answer = await exchange.call("alice", "POST", "/orders/batch_cancel", body)
    assert status == 200
    results = answer["results"]
    assert [result["success"] for result in results] == [True, False, False, True, False]
    assert [result.get("order_id") for result in results] == [*ids, named["id"], None]
    assert [result.get("client_oid") for result in results[3:]] == ["named", "unknown"]
    assert {result["error"]["message"] for result in results if "error" in result} == {"order not found"}
    assert exchange.backend.batches[-1] == 4
    assert [order.order_id for order in exchange.backend.engine.orders("bob")]


async def test_bounds_and_shapes_are_refused_by_name(exchange: Exchange) -> None:
    for body, field in (
        ({"orders": []}, "orders"),
        ({"orders": [GOOD] * 101}, "orders"),
        ({"orders": [GOOD | {"what": 1}]}, "orders[0].what"),
        ({}, "orders"),
    ):
        status, answer = await exchange.call("alice", "POST", "/orders/batch", body)
        assert (status, answer["field"]) == (400, field)
    for refused in ({}, {"order_ids": ["no-id"]}, {"client_oids": ["a b"]}, {"order_ids": ["x"] * 101}):
        assert (await exchange.call("alice", "POST", "/orders/batch_cancel", refused))[0] == 400


async def test_a_batch_of_refusals_only_sends_nothing(exchange: Exchange) -> None:
    sent = len(exchange.backend.submitted)
    status, answer = await exchange.call("alice", "POST", "/orders/batch", {"orders": [GOOD | {"side": "up"}]})
    assert (status, answer["results"][0]["success"]) == (200, False)
    assert len(exchange.backend.submitted) == sent


async def test_an_order_of_a_batch_equals_a_single_one(exchange: Exchange) -> None:
    body = GOOD | {"time_in_force": "IOC", "stp": "co", "client_oid": "x"}
    await exchange.call("alice", "POST", "/orders/batch", {"orders": [body]})
    await exchange.call("bob", "POST", "/orders", body)
    batched, alone = (command for command in exchange.backend.submitted[-2:])
    assert isinstance(batched, PlaceOrder)
    assert isinstance(alone, PlaceOrder)
    assert (batched.command_id, batched.stp, batched.time_in_force) == (alone.command_id, alone.stp, alone.time_in_force)
