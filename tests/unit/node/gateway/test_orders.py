"""Placing, cancelling and looking up orders over HTTP, in the shapes that foreign clients read."""

from __future__ import annotations

import pytest

from tests.unit.node.gateway.harness import Exchange

BUY = {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1"}


async def test_a_resting_order_is_answered_with_its_real_state(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "100", "1.5", client_oid="mine-1")
    assert order == {
        "id": "00000000-0000-0000-0000-000000000001",
        "client_oid": "mine-1",
        "product_id": "BTC-USD",
        "side": "buy",
        "type": "limit",
        "price": "100",
        "size": "1.5",
        "stp": "dc",
        "time_in_force": "GTC",
        "post_only": False,
        "created_at": order["created_at"],
        "fill_fees": "0",
        "filled_size": "0",
        "executed_value": "0",
        "status": "open",
        "settled": False,
        "profile_id": "alice",
    }


async def test_a_trade_shows_in_the_answer_and_in_the_accounts(exchange: Exchange) -> None:
    await exchange.order("bob", "sell", "100", "1")
    order = await exchange.order("alice", "buy", "105", "1")
    assert (order["status"], order["done_reason"], order["filled_size"], order["executed_value"]) == (
        "done",
        "filled",
        "1",
        "100",
    )
    assert order["fill_fees"] == "0.2"
    _, accounts = await exchange.call("alice", "GET", "/accounts")
    by_id = {account["id"]: (account["balance"], account["available"], account["hold"]) for account in accounts}
    assert by_id["alice:USD"] == ("999899.8", "999899.8", "0")
    assert by_id["alice:BTC"] == ("101", "101", "0")


async def test_the_same_client_oid_again_answers_the_orders_present_state(exchange: Exchange) -> None:
    first = await exchange.order("alice", "buy", "100", "1", client_oid="once")
    await exchange.order("bob", "sell", "100", "1")
    response = await exchange.send("alice", "POST", "/orders", BUY | {"client_oid": "once"})
    assert response.status == 200
    assert response.headers["x-quorumbook-duplicate"] == "true"
    now = await response.json()
    assert (now["id"], now["status"], now["filled_size"]) == (first["id"], "done", "1")
    assert now == (await exchange.call("alice", "GET", f"/orders/{first['id']}"))[1]
    _, batch = await exchange.call("alice", "POST", "/orders/batch", {"orders": [BUY | {"client_oid": "once"}]})
    assert batch["results"][0]["order"] == now
    status, answer = await exchange.call("alice", "POST", "/orders", BUY | {"client_oid": "once", "size": "2"})
    assert (status, answer["reason"]) == (400, "command_id_reused")


async def test_numbers_may_come_as_json_numbers_and_are_read_as_text(exchange: Exchange) -> None:
    raw = b'{"product_id":"BTC-USD","side":"buy","price":100,"size":0.29}'
    response = await exchange.send("alice", "POST", "/orders", raw=raw)
    assert response.status == 200
    assert (await response.json())["size"] == "0.29"


async def test_market_orders_are_placed_by_size_and_by_funds(exchange: Exchange) -> None:
    await exchange.order("bob", "sell", "100", "2")
    market = {"product_id": "BTC-USD", "side": "buy", "type": "market"}
    _, by_size = await exchange.call("alice", "POST", "/orders", market | {"size": "1"})
    assert (by_size["filled_size"], by_size["status"], "price" in by_size) == ("1", "done", False)
    _, by_funds = await exchange.call("alice", "POST", "/orders", market | {"funds": "50.1"})
    assert (by_funds["filled_size"], by_funds["specified_funds"]) == ("0.5", "50.1")
    status, empty = await exchange.call("bob", "POST", "/orders", market | {"side": "sell", "size": "1"})
    assert (status, empty["done_reason"], empty["filled_size"]) == (200, "canceled", "0")


async def test_the_time_in_force_po_means_post_only(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "100", "1", time_in_force="PO")
    assert (order["post_only"], order["time_in_force"]) == (True, "GTC")
    await exchange.order("bob", "sell", "200", "1")
    status, answer = await exchange.call("alice", "POST", "/orders", BUY | {"price": "200", "time_in_force": "PO"})
    assert (status, answer["reason"]) == (400, "post_only_would_take")


@pytest.mark.parametrize(
    ("change", "message", "field"),
    [
        ({"price": "0"}, "price too small", "price"),
        ({"price": "-1"}, "price too small", "price"),
        ({"price": "1.001"}, "price too precise", "price"),
        ({"price": "1.5"}, "price too precise", "price"),
        ({"price": "1e3x"}, "price must be a plain decimal number in a string", "price"),
        ({"price": "1e999"}, "price must be a plain decimal number in a string", "price"),
        ({"price": "1e-3"}, "price too precise", "price"),
        ({"price": "NaN"}, "price must be a plain decimal number in a string", "price"),
        ({"price": "9" * 60}, "price is too large", "price"),
        ({"price": "9" * 600}, "price must be a plain decimal number in a string", "price"),
        ({"price": True}, "price must be a plain decimal number in a string", "price"),
        ({"price": [1]}, "price must be a plain decimal number in a string", "price"),
        ({"price": None}, "price is required", "price"),
        ({"size": "0"}, "size is too small. Minimum size is 0.02", "size"),
        ({"size": "-3"}, "size is too small. Minimum size is 0.02", "size"),
        ({"size": "0.01"}, "size is too small. Minimum size is 0.02", "size"),
        ({"size": "0.0301"}, "size too precise", "size"),
        ({"size": "0.000000001"}, "size too precise", "size"),
        ({"size": "1001"}, "size is too large. Maximum size is 1000", "size"),
        ({"side": "hold"}, "side must be one of buy, sell", "side"),
        ({"side": 1}, "side: expected str, got int", "side"),
        ({"type": "iceberg"}, "type must be one of limit, market, stop", "type"),
        ({"time_in_force": "GTX"}, "time_in_force must be one of GTC, IOC, FOK, GTT, PO", "time_in_force"),
        ({"max_floor": "1"}, "max_floor is not supported", "max_floor"),
        ({"stop_limit_price": "1"}, "stop_limit_price is not supported", "stop_limit_price"),
        ({"stp": "xx"}, "stp must be one of dc, co, cn, cb", "stp"),
        ({"colour": 1}, "colour is not a field of this call", "colour"),
        ({"product_id": "NO-SUCH"}, "Product not found", "product_id"),
        ({"client_oid": "with space"}, "Invalid client_oid", "client_oid"),
        ({"client_oid": ""}, "Invalid client_oid", "client_oid"),
        ({"post_only": "yes"}, "post_only: expected bool | null, got str", "post_only"),
        ({"price": "999999"}, "Insufficient funds", None),
        ({"profile_id": "bob"}, "profile_id must be the account of the API key", "profile_id"),
    ],
)
async def test_a_bad_order_is_refused_by_name(
    exchange: Exchange, change: dict[str, object], message: str, field: str | None
) -> None:
    status, answer = await exchange.call("alice", "POST", "/orders", BUY | {"size": "2"} | change)
    assert status == (404 if message == "Product not found" else 400)
    assert answer["message"] == message
    if field is not None:
        assert answer["field"] == field
    assert (await exchange.call("alice", "GET", "/orders"))[1] == []


async def test_missing_fields_are_named(exchange: Exchange) -> None:
    for field in BUY:
        body = {name: value for name, value in BUY.items() if name != field}
        status, answer = await exchange.call("alice", "POST", "/orders", body)
        assert (status, answer["field"], answer["message"]) == (400, field, f"{field} is required")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"{}}", b'{"a":' * 10_000, b"[" * 50_000])
async def test_malformed_json_is_refused(exchange: Exchange, raw: bytes) -> None:
    response = await exchange.send("alice", "POST", "/orders", raw=raw)
    assert response.status == 400
    assert (await response.json())["message"]


async def test_an_order_is_looked_up_and_cancelled_by_either_id(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "100", "1", client_oid="c-1")
    assert (await exchange.call("alice", "GET", f"/orders/{order['id']}")) == (200, order)
    assert (await exchange.call("alice", "GET", "/orders/client:c-1")) == (200, order)
    assert (await exchange.call("bob", "GET", f"/orders/{order['id']}")) == (404, {"message": "NotFound", "field": "id"})
    assert (await exchange.call("bob", "DELETE", f"/orders/{order['id']}"))[0] == 404
    assert (await exchange.call("alice", "DELETE", f"/orders/{order['id']}")) == (200, order["id"])
    status, answer = await exchange.call("alice", "DELETE", "/orders/client:c-1")
    assert (status, answer["message"]) == (400, "Order already done")
    _, done = await exchange.call("alice", "GET", f"/orders/{order['id']}")
    assert (done["status"], done["done_reason"]) == ("done", "canceled")


@pytest.mark.parametrize("order_id", ["1", "x", "0000000000000000000000000000001", "abcdef00-0000-0000-0000-00000000000g", "%00"])
async def test_an_invalid_order_id_is_refused(exchange: Exchange, order_id: str) -> None:
    for method in ("GET", "DELETE"):
        status, answer = await exchange.call("alice", method, f"/orders/{order_id}")
        assert (status, answer["message"]) == (400, "Invalid order id")


@pytest.mark.parametrize("order_id", ["ffffffff-ffff-ffff-ffff-ffffffffffff", "00000000-0000-0000-0000-000000000000"])
async def test_an_order_id_without_an_order_is_not_found(exchange: Exchange, order_id: str) -> None:
    assert (await exchange.call("alice", "GET", f"/orders/{order_id}"))[1]["message"] == "NotFound"
    assert (await exchange.call("alice", "DELETE", f"/orders/{order_id}"))[1]["message"] == "order not found"


@pytest.mark.parametrize(
    ("target", "body"),
    [("/orders?product_id=BTC-USD", None), ("/orders?product_id=BTC/USD", None), ("/orders", {"product_id": "BTC/USD"})],
)
async def test_cancel_all_reads_the_product_in_both_places_and_spellings(exchange: Exchange, target: str, body: object) -> None:
    order = await exchange.order("alice", "buy", "100", "1")
    other = {"product_id": "ETH-BTC", "side": "sell", "price": "0.05", "size": "1"}
    _, kept = await exchange.call("alice", "POST", "/orders", other)
    assert await exchange.call("alice", "DELETE", target, body) == (200, [order["id"]])
    assert [left["id"] for left in (await exchange.call("alice", "GET", "/orders"))[1]] == [kept["id"]]
    assert await exchange.call("alice", "DELETE", "/orders") == (200, [kept["id"]])


async def test_a_misspelt_parameter_cancels_nothing(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "100", "1")
    status, answer = await exchange.call("alice", "DELETE", "/orders?product=BTC-USD")
    assert (status, answer["field"]) == (400, "product")
    assert (await exchange.call("alice", "DELETE", "/orders?product_id=BTC-USD", {"product_id": "ETH-BTC"}))[0] == 400
    assert (await exchange.call("alice", "GET", f"/orders/{order['id']}"))[1]["status"] == "open"


async def test_a_cancel_that_names_another_product_is_refused(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "100", "1")
    status, _ = await exchange.call("alice", "DELETE", f"/orders/{order['id']}", {"product_id": "ETH/BTC"})
    assert status in (400, 404)
    assert await exchange.call("alice", "DELETE", f"/orders/{order['id']}", {"product_id": "BTC/USD"}) == (200, order["id"])


async def test_lists_filter_and_page(exchange: Exchange) -> None:
    orders = [await exchange.order("alice", "buy", str(100 + step), "1") for step in range(5)]
    await exchange.call("alice", "DELETE", f"/orders/{orders[0]['id']}")
    ids = [order["id"] for order in orders]

    async def listed(query: str) -> list[str]:
        status, answer = await exchange.call("alice", "GET", f"/orders?{query}" if query else "/orders")
        assert status == 200, answer
        return [order["id"] for order in answer]

    assert await listed("") == ids[:0:-1]
    assert await listed("status=done") == ids[:1]
    assert await listed("status=all") == ids[::-1]
    assert await listed("status=open&status=done") == ids[::-1]
    assert await listed("product_id=ETH-BTC") == []
    assert await listed(f"status=all&start_date={orders[2]['created_at']}") == ids[:1:-1]
    assert await listed(f"status=all&end_date={orders[2]['created_at']}") == ids[2::-1]
    response = await exchange.send("alice", "GET", "/orders?status=all&limit=2")
    assert [order["id"] for order in await response.json()] == [ids[4], ids[3]]
    assert response.headers["cb-after"] == ids[3]
    assert await listed(f"status=all&limit=2&after={ids[3]}") == [ids[2], ids[1]]
    assert await listed(f"status=all&before={ids[3]}") == [ids[4]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=maybe", "status"),
        ("after=7", "after"),
        ("start_date=yesterday", "start_date"),
        ("consistency=maybe", "consistency"),
    ],
)
async def test_bad_parameters_are_named(exchange: Exchange, query: str, field: str) -> None:
    status, answer = await exchange.call("alice", "GET", f"/orders?{query}")
    assert (status, answer["field"]) == (400, field)


async def test_cursors_of_orders_lie_where_ids_lie(exchange: Exchange) -> None:
    orders = [await exchange.order("alice", "buy", str(price), "1") for price in (10, 11, 12)]
    ids = [order["id"] for order in reversed(orders)]
    nobody = "ffffffff-ffff-ffff-ffff-ffffffffffff"

    async def listed(query: str) -> list[str]:
        _, found = await exchange.call("alice", "GET", f"/orders?{query}")
        _, held = await exchange.call("alice", "GET", f"/accounts/alice:USD/holds?{query}")
        assert [row["id"] for row in found] == [row["id"] for row in held]
        return [row["id"] for row in found]

    assert await listed("after=00000000-0000-0000-0000-000000000000") == []
    assert await listed(f"after={nobody}") == ids
    assert await listed(f"before={nobody}") == []
    assert await listed(f"before={ids[2]}") == ids[:2]
    assert await listed(f"after={ids[0].upper()}") == ids[1:]
    assert await listed(f"start_date={orders[1]['created_at']}") == ids[:2]
    assert await listed("end_date=1700000000.5") == []


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/orders?after=1", "after"),
        ("/orders?before=1", "before"),
        ("/accounts/alice:USD/holds?after=1", "after"),
        ("/accounts/alice:USD/holds?end_date=soon", "end_date"),
        ("/fills?order_id=1", "order_id"),
        ("/orders?sorting=up", "sorting"),
        ("/orders?sortedBy=colour", "sortedBy"),
        ("/orders?sorting=asc&status=done", "sorting"),
        ("/orders?sortedBy=price&status=all", "sortedBy"),
        ("/orders?sortedBy=price&after=00000000-0000-0000-0000-000000000001", "sortedBy"),
        ("/orders/1", "id"),
    ],
)
async def test_a_parameter_at_fault_is_named(exchange: Exchange, target: str, field: str) -> None:
    status, answer = await exchange.call("alice", "GET", target)
    assert (status, answer["field"]) == (400, field)


async def test_lists_are_newest_first_and_say_so(exchange: Exchange) -> None:
    order = await exchange.order("alice", "buy", "10", "1")
    _, listed = await exchange.call("alice", "GET", "/orders?sortedBy=created_at&sorting=desc&market_type=spot&profile_id=alice")
    assert listed == [order]


@pytest.mark.parametrize(
    ("change", "field", "detail"),
    [
        ({"price": "1.5"}, "price", "expected a multiple of 1"),
        ({"size": "0.035"}, "size", "expected a multiple of 0.01"),
        ({"size": "0.01"}, "size", "expected at least 0.02"),
        ({"size": "1001"}, "size", "expected at most 1000"),
        ({"price": "2000000"}, "size", "2004000 needed, 1000000 available"),
        ({"side": "sell", "size": "101"}, "size", "101 needed, 100 available"),
        ({"client_oid": "open"}, "client_oid", "this id came before with other contents"),
    ],
)
async def test_a_reject_has_decimals_and_the_names_of_the_call(
    exchange: Exchange, change: dict[str, str], field: str, detail: str
) -> None:
    await exchange.call("alice", "POST", "/orders", BUY | {"client_oid": "open", "size": "0.5", "time_in_force": "IOC"})
    status, answer = await exchange.call("alice", "POST", "/orders", BUY | change)
    assert (status, answer["field"], answer["detail"]) == (400, field, detail)


@pytest.mark.parametrize(
    ("method", "target"), [("POST", "/orders"), ("POST", "/orders/batch"), ("DELETE", "/orders"), ("POST", "/deposits")]
)
async def test_a_command_knows_its_parameters_too(exchange: Exchange, method: str, target: str) -> None:
    for name in ("colour", "consistency"):
        status, answer = await exchange.call("alice", method, f"{target}?{name}=local", BUY)
        assert (status, answer["field"]) == (400, name)
    assert (await exchange.call("alice", "GET", "/orders"))[1] == []


@pytest.mark.parametrize(
    ("method", "target", "body", "field"),
    [
        ("POST", "/orders", {"type": "market", "size": "1", "funds": "0"}, "funds"),
        ("POST", "/orders", {"price": "100", "size": "1", "display_size": "0"}, "display_size"),
        ("POST", "/orders", {"price": "100", "size": "1", "take_profit_price": "0.00"}, "take_profit_price"),
        ("POST", "/orders", {"price": "100", "size": "1", "stop_loss_price": 0}, "stop_loss_price"),
        ("POST", "/orders", {"type": "stop", "size": "1", "trail": "0"}, "trail"),
        ("DELETE", "/orders?product_id=BTC-USD&price_max=0", None, "price_max"),
        ("DELETE", "/orders?product_id=BTC-USD&price_min=95&price_max=0", None, "price_max"),
    ],
)
async def test_a_zero_never_means_without_a_limit(
    exchange: Exchange, method: str, target: str, body: dict[str, object] | None, field: str
) -> None:
    """In a command 0 means that the option is absent: a market order with funds of 0 would have no ceiling."""
    await exchange.order("alice", "buy", "90", "1")
    request = None if body is None else {"product_id": "BTC-USD", "side": "buy", **body}
    status, answer = await exchange.call("alice", method, target, request)
    assert (status, answer["field"]) == (400, field), answer
    assert len((await exchange.call("alice", "GET", "/orders"))[1]) == 1
