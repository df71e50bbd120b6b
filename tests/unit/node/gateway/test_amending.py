"""Amending, replacing and mass cancels with filters."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.node.gateway.harness import Exchange


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_an_amended_order_keeps_its_id(exchange: Exchange, method: str) -> None:
    order = await exchange.order("alice", "buy", "50", "2", client_oid="mine")
    status, less = await exchange.call("alice", method, f"/orders/{order['id']}", {"size": "1.5"})
    assert (status, less["id"], less["size"], less["price"]) == (200, order["id"], "1.5", "50")
    status, moved = await exchange.call("alice", method, "/orders/client:mine", {"price": "51", "product_id": "BTC-USD"})
    assert (status, moved["id"], moved["size"], moved["price"]) == (200, order["id"], "1.5", "51")
    assert (await exchange.call("alice", "GET", f"/orders/{order['id']}"))[1] == moved


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "size"),
        ({"size": "0"}, 400, "size"),
        ({"size": "1.001"}, 400, "size"),
        ({"size": "x"}, 400, "size"),
        ({"price": "1.5"}, 400, "price"),
        ({"price": ["1"]}, 400, "price"),
        ({"stop_price": "60"}, 400, "stop_price"),
        ({"price": "51", "product_id": "ETH-BTC"}, 404, "product_id"),
        ({"price": "51", "product_id": "NONE"}, 404, "product_id"),
        ({"price": "51", "profile_id": "bob"}, 400, "profile_id"),
        ({"side": "sell"}, 400, "side"),
        (None, 400, None),
    ],
)
async def test_a_refused_amendment_names_the_field_and_changes_nothing(
    exchange: Exchange, body: Any, status: int, field: str | None
) -> None:
    order = await exchange.order("alice", "buy", "50", "2")
    found, answer = await exchange.call("alice", "PUT", f"/orders/{order['id']}", body)
    assert (found, answer.get("field")) == (status, field), answer
    assert (await exchange.call("alice", "GET", f"/orders/{order['id']}"))[1] == order


async def test_orders_of_others_and_done_ones_are_not_amended(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "50", "2")
    for target in (f"/orders/{order['id']}", "/orders/client:none", "/orders/ffffffff-ffff-ffff-ffff-ffffffffffff"):
        status, answer = await exchange.call("bob", "PUT", target, {"size": "1"})
        assert (status, answer["message"]) == (404, "order not found")
    await exchange.call("alice", "DELETE", f"/orders/{order['id']}")
    status, answer = await exchange.call("alice", "PUT", f"/orders/{order['id']}", {"size": "1"})
    assert (status, answer["message"]) == (400, "Order already done")


async def test_a_batch_of_amendments_has_a_result_each(exchange: Exchange) -> None:
    first = await exchange.order("alice", "buy", "50", "2", client_oid="one")
    second = await exchange.order("alice", "buy", "51", "2")
    items = [
        {"client_oid": "one", "size": "1"},
        {"order_id": second["id"], "price": "52"},
        {"order_id": second["id"], "client_oid": "one", "size": "1"},
        {"client_oid": "none", "size": "1"},
        {"order_id": first["id"], "size": "x"},
    ]
    status, answer = await exchange.call("alice", "POST", "/orders/batch_amend", {"orders": items})
    assert status == 200
    results = answer["results"]
    assert [result["success"] for result in results] == [True, True, False, False, False]
    assert (results[0]["order"]["size"], results[1]["order"]["price"]) == ("1", "52")
    assert [result["error"]["field"] for result in results[2:]] == ["order_id", "id", "size"]
    status, answer = await exchange.call("alice", "POST", "/orders/batch_amend", {"orders": []})
    assert (status, answer["field"]) == (400, "orders")


async def test_a_replaced_order_leaves_and_the_new_one_has_an_id_of_its_own(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "50", "2")
    body = {"product_id": "BTC-USD", "side": "buy", "price": "49", "size": "1", "client_oid": "next"}
    status, answer = await exchange.call("alice", "POST", f"/orders/{order['id']}/replace", body)
    assert status == 200, answer
    assert (answer["cancelled"]["id"], answer["cancelled"]["status"]) == (order["id"], "done")
    assert (answer["placed"]["client_oid"], answer["placed"]["price"], answer["placed"]["status"]) == ("next", "49", "open")
    status, refused = await exchange.call("alice", "POST", "/orders/client:next/replace", body | {"size": "0.001"})
    assert status == 400, refused
    assert (await exchange.call("alice", "GET", "/orders/client:next"))[1]["status"] == "open"


async def test_a_mass_cancel_takes_one_side_and_a_range_of_prices(exchange: Exchange) -> None:
    orders = {price: await exchange.order("alice", "buy", price, "1") for price in ("50", "51", "52", "53")}
    sell = await exchange.order("alice", "sell", "90", "1")
    target = "/orders?product_id=BTC-USD&side=buy&price_min=51&price_max=52"
    assert await exchange.call("alice", "DELETE", target) == (200, [orders["51"]["id"], orders["52"]["id"]])
    assert await exchange.call("alice", "DELETE", "/orders?side=sell") == (200, [sell["id"]])
    for query, field in (
        ("side=up", "side"),
        ("price_min=1", "product_id"),
        ("product_id=BTC-USD&price_min=x", "price_min"),
        ("product_id=BTC-USD&price_min=5&price_max=4", "price_max"),
        ("sides=buy", "sides"),
    ):
        status, answer = await exchange.call("alice", "DELETE", f"/orders?{query}")
        assert (status, answer["field"]) == (400, field)
