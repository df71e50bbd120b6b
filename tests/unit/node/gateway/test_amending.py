"""Amending, replacing and mass cancels with filters."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.node.gateway.harness import Exchange, receive


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


async def test_an_order_with_options_shows_them(exchange: Exchange) -> None:
    iceberg = await exchange.order("alice", "buy", "50", "2", display_size="0.5", session="desk", take_profit_price="70")
    shown = {name: iceberg[name] for name in ("display_size", "visible_size", "session", "take_profit_price")}
    assert shown == {"display_size": "0.5", "visible_size": "0.5", "session": "desk", "take_profit_price": "70"}
    plain = await exchange.order("alice", "buy", "49", "2")
    assert "display_size" not in plain
    assert await exchange.call("alice", "DELETE", "/orders?session=desk") == (200, [iceberg["id"]])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"display_size": "9"}, "display_size"),
        ({"display_size": "x"}, "display_size"),
        ({"trail": "1"}, "trail"),
        ({"good_for": "life"}, "good_for"),
        ({"expire_time": "tomorrow"}, "expire_time"),
        ({"expire_time": "2030-01-01T00:00:00Z"}, None),
        ({"stop_loss_limit_price": "10"}, "stop_loss_limit_price"),
        ({"session": "a b"}, "session"),
    ],
)
async def test_a_refused_option_names_its_field(exchange: Exchange, fields: Any, field: str | None) -> None:
    body = {"product_id": "BTC-USD", "side": "buy", "price": "50", "size": "2"} | fields
    status, answer = await exchange.call("alice", "POST", "/orders", body)
    assert status == 400, answer
    assert field is None or answer["field"] == field, answer


@pytest.mark.parametrize("fields", [{}, {"time_in_force": "GTT"}])
async def test_an_order_good_for_a_day_leaves_at_midnight(exchange: Exchange, fields: Any) -> None:
    order = await exchange.order("alice", "buy", "50", "2", good_for="day", **fields)
    assert (order["good_for"], order["time_in_force"]) == ("day", "GTT")
    assert order["expire_time"].endswith("T00:00:00.000000Z")


async def test_each_order_of_a_pair_cancels_the_other(exchange: Exchange) -> None:
    body = {"product_id": "BTC-USD", "side": "sell", "size": "1", "price": "120", "stop_price": "80", "client_oid": "up"}
    status, answer = await exchange.call("alice", "POST", "/orders/pair", body)
    assert status == 200, answer
    limit, stop = answer["limit"], answer["stop"]
    assert (limit["price"], stop["stop_price"], limit["linked_order_id"]) == ("120", "80", stop["id"])
    assert await exchange.call("alice", "DELETE", f"/orders/{limit['id']}") == (200, limit["id"])
    status, other = await exchange.call("alice", "GET", f"/orders/{stop['id']}")
    assert (other["status"], other["done_reason"]) == ("done", "canceled")
    for fields, field in (({"stop_price": "130"}, "stop_price"), ({"size": "0"}, "size"), ({"client_oid": "a b"}, "client_oid")):
        status, answer = await exchange.call("alice", "POST", "/orders/pair", body | {"client_oid": "next"} | fields)
        assert (status, answer["field"]) == (400, field), answer


async def test_a_timer_cancels_the_open_orders_when_it_goes_off(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "50", "2")
    status, armed = await exchange.call("alice", "POST", "/orders/cancel-all-after", {"timeout": 60})
    assert status == 200, armed
    assert armed["trigger_time"] is not None
    assert (await exchange.call("alice", "POST", "/orders/cancel-all-after", {"timeout": 0}))[1]["trigger_time"] is None
    exchange.backend.advance(seconds=61)
    assert (await exchange.call("alice", "GET", f"/orders/{order['id']}"))[1]["status"] == "open"
    await exchange.call("alice", "POST", "/orders/cancel-all-after", {"timeout": 30})
    exchange.backend.advance(seconds=31)
    exchange.backend.advance(seconds=1)
    status, found = await exchange.call("alice", "GET", f"/orders/{order['id']}")
    assert (found["status"], found["done_reason"]) == ("done", "canceled")
    for body, field in (
        ({"timeout": -1}, "timeout"),
        ({"timeout": 1e9}, "timeout"),
        ({}, "timeout"),
        ({"timeout": 1, "session": " "}, "session"),
    ):
        status, answer = await exchange.call("alice", "POST", "/orders/cancel-all-after", body)
        assert (status, answer["field"]) == (400, field), answer


async def test_the_missing_amount_of_an_amended_sell_is_shown_in_base_currency(exchange: Exchange) -> None:
    order = await exchange.order("alice", "sell", "100", "1")
    lacks = "500 needed, 100 available"
    assert (await exchange.call("alice", "PUT", f"/orders/{order['id']}", {"size": "500"}))[1]["detail"] == lacks
    body = {"orders": [{"order_id": order["id"], "size": "500"}]}
    (result,) = (await exchange.call("alice", "POST", "/orders/batch_amend", body))[1]["results"]
    assert result["error"]["detail"] == lacks
    socket = await exchange.socket()
    amendment = {"type": "amend", "request_id": "1", "order": body["orders"][0]}
    await socket.send_json(amendment | exchange.socket_signature("alice"))
    assert (await receive(socket, "result"))["error"]["detail"] == lacks
