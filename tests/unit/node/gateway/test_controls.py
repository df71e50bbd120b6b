"""The operator's controls over HTTP and on the feed."""

from __future__ import annotations

import pytest

from tests.unit.node.gateway.harness import Exchange, receive


async def test_a_kill_switch_cancels_refuses_and_is_visible_on_the_status_channel(exchange: Exchange) -> None:
    socket = await exchange.client.ws_connect("/")
    await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["status", "full"]})
    await receive(socket, "status")
    placed = await exchange.order("alice", "buy", "90", "1")
    body = {"switches": ["kill"], "note": "runaway"}
    status, answer = await exchange.call("admin", "PUT", "/admin/switches/product/BTC-USD", body)
    assert status == 200, answer
    assert (answer["changed"], answer["cancelled"], answer["pending"]) == (True, 1, False)
    switched = await receive(socket, "trading_switch")
    assert (switched["switches"], switched["message"], switched["scope"]) == (["kill"], "runaway", "product")
    while True:
        message = await receive(socket, "status")
        (product,) = [each for each in message["products"] if each["id"] == "BTC-USD"]
        if product["status_message"]:
            break
    assert product["status_message"] == "switched off: kill (runaway)"
    assert product["cancel_only"]
    _, order = await exchange.call("alice", "GET", f"/orders/{placed['id']}")
    assert (order["status"], order["done_reason"]) == ("done", "canceled")
    order_body = {"product_id": "BTC-USD", "side": "buy", "price": "90", "size": "1"}
    status, refused = await exchange.call("alice", "POST", "/orders", order_body)
    assert (status, refused["reason"]) == (400, "kill_switch")
    assert (await exchange.call("alice", "DELETE", "/orders"))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/switches/product/BTC-USD", {"switches": []}))[0] == 200
    assert (await exchange.call("alice", "POST", "/orders", order_body))[0] == 200


async def test_limits_risk_firms_calendars_are_put_and_shown(exchange: Exchange) -> None:
    calendar = {
        "time_zone": "Europe/Berlin",
        "week": {"mon-fri": ["09:00 continuous", "17:30 closed"]},
        "days": {"2026-12-25": []},
    }
    for target, body in (
        ("/admin/firms/acme", None),
        ("/admin/accounts/alice/firm", {"firm_id": "acme"}),
        ("/admin/products/BTC-USD/limits", {"dynamic": "0.05", "action": "auction", "call_seconds": 60, "order_size": "5"}),
        ("/admin/risk/firm/acme", {"currency": "USD", "open": "1000"}),
        ("/admin/risk/account/alice", {"orders": 10}),
        ("/admin/calendars/berlin", calendar),
        ("/admin/follows/group/late", {"calendar_id": "berlin"}),
        ("/admin/products/BTC-USD/group", {"group_id": "none"}),
    ):
        status, answer = await exchange.call("admin", "PUT", target, body)
        assert (status, answer.get("changed")) == (200, True), (target, answer)
    _, found = await exchange.call("admin", "GET", "/admin/controls")
    assert found["firm"] == [{"firm_id": "acme"}]
    assert found["product_limits"][0]["dynamic_ppm"] == 50_000
    assert len(found["risk"]) == 2
    assert found["calendar"][0]["time_zone"] == "Europe/Berlin"
    order_body = {"product_id": "BTC-USD", "side": "buy", "price": "90", "size": "6"}
    status, refused = await exchange.call("alice", "POST", "/orders", order_body)
    assert (status, refused["reason"]) == (400, "order_limit")


async def test_fees_follow_tiers_overrides_and_volume(exchange: Exchange) -> None:
    tiers = [
        {"volume": "0", "maker_fee_rate": "0.004", "taker_fee_rate": "0.006"},
        {"volume": "150", "maker_fee_rate": "-0.001", "taker_fee_rate": "0.002"},
    ]
    status, answer = await exchange.call("admin", "PUT", "/admin/fees/currency/USD", {"tiers": tiers})
    assert (status, answer["changed"]) == (200, True), answer
    first = {"maker_fee_rate": "0.004", "taker_fee_rate": "0.006", "usd_volume": "0"}
    assert (await exchange.call("alice", "GET", "/fees?product_id=BTC-USD"))[1] == first
    await exchange.order("alice", "sell", "100", "2")
    await exchange.order("bob", "buy", "100", "2")
    second = {"maker_fee_rate": "-0.001", "taker_fee_rate": "0.002", "usd_volume": "200"}
    for name in ("alice", "bob"):
        assert (await exchange.call(name, "GET", "/fees?product_id=BTC-USD"))[1] == second
    own = {"product_id": "BTC-USD", "maker_fee_rate": "-0.0005", "taker_fee_rate": "0.001"}
    status, answer = await exchange.call("admin", "PUT", "/admin/accounts/bob/fees", own)
    assert (status, answer["changed"]) == (200, True), answer
    assert (await exchange.call("bob", "GET", "/fees?product_id=BTC-USD"))[1]["taker_fee_rate"] == "0.001"
    status, answer = await exchange.call("admin", "PUT", "/admin/accounts/bob/fees", own | {"taker_fee_rate": "0.0009"})
    assert (status, answer["field"]) == (400, "maker_fee_rate")
    assert (await exchange.call("admin", "PUT", "/admin/accounts/bob/fees", {"product_id": "BTC-USD"}))[0] == 200
    assert (await exchange.call("bob", "GET", "/fees?product_id=BTC-USD"))[1] == second
    _, found = await exchange.call("admin", "GET", "/admin/controls")
    assert found["fee_override"] == []
    assert "fee_volume" not in found, "a table with a row of each account is not a setting"
    for body, field in (
        ({"tiers": [{"volume": "1", "maker_fee_rate": "0", "taker_fee_rate": "0"}]}, "tiers"),
        ({"tiers": [{"volume": "0", "maker_fee_rate": "0", "taker_fee_rate": "-0.001"}]}, "taker_fee_rate"),
    ):
        status, answer = await exchange.call("admin", "PUT", "/admin/fees/currency/USD", body)
        assert (status, answer.get("field")) == (400, field), answer
    assert (await exchange.call("alice", "PUT", "/admin/fees/currency/USD", {"tiers": []}))[0] == 403


async def test_a_trade_is_busted_once(exchange: Exchange) -> None:
    await exchange.order("alice", "sell", "100", "1")
    await exchange.order("bob", "buy", "100", "1")
    _, trades = await exchange.get("/products/BTC-USD/trades")
    target = f"/admin/products/BTC-USD/trades/{trades[0]['trade_id']}/correction"
    body = {"buyer": "bob", "seller": "alice", "price": "100", "size": "1", "buyer_fee": "0", "seller_fee": "0"}
    for wrong in ({"buyer_order_id": "7"}, {"seller_order_id": "zzz"}):
        status, refused = await exchange.call("admin", "POST", target, body | wrong)
        assert (status, refused["field"]) == (400, next(iter(wrong)))
    far = {"buyer_order_id": "00000000-0000-0000-0000-0000000fffff"}
    assert (await exchange.call("admin", "POST", target, body | far))[0] == 404
    _, refused = await exchange.call("admin", "POST", target, body | {"size": "500"})
    detail = "101 of the base currency available, 500 to give back"
    assert refused["detail"] == detail, "coins have other digits than prices"
    status, answer = await exchange.call("admin", "POST", target, body)
    assert status == 200, answer
    assert (await exchange.call("admin", "POST", target, body | {"note": "again"}))[0] == 409
    (busted,) = (await exchange.get("/products/BTC-USD/trades"))[1]
    assert busted == trades[0] | {"correction": "bust"}


@pytest.mark.parametrize(
    ("target", "body", "status", "field"),
    [
        ("/admin/switches/product/BTC-USD", {"switches": ["all"]}, 400, "switches"),
        ("/admin/switches/group/x", {"switches": []}, 400, "scope"),
        ("/admin/switches/account/nobody", {"switches": ["kill"]}, 404, "name"),
        ("/admin/products/BTC-USD/limits", {"dynamic": "0.05", "action": "shout"}, 400, "action"),
        ("/admin/products/BTC-USD/limits", {"dynamic": "0.05", "halt_seconds": -1}, 400, "halt_seconds"),
        ("/admin/calendars/c", {"time_zone": "Europe/Atlantis", "week": {}}, 400, "time_zone"),
        ("/admin/calendars/c", {"time_zone": "UTC", "week": {"mon": ["nine continuous"]}}, 400, "week.mon"),
    ],
)
async def test_a_wrong_field_of_a_control_is_named(
    exchange: Exchange, target: str, body: object, status: int, field: str
) -> None:
    answered, answer = await exchange.call("admin", "PUT", target, body)
    assert (answered, answer.get("field")) == (status, field), answer
    assert (await exchange.call("alice", "PUT", target, body))[0] == 403


async def test_an_order_outside_the_collar_rests_at_it_in_a_limit_state(exchange: Exchange) -> None:
    await exchange.order("alice", "sell", "100", "1")
    await exchange.order("bob", "buy", "100", "1")
    body = {"dynamic": "0.05", "action": "halt", "halt_seconds": 300, "call_seconds": 60, "limit_seconds": 15}
    assert (await exchange.call("admin", "PUT", "/admin/products/BTC-USD/limits", body))[0] == 200
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["full"]})
    await receive(socket, "subscriptions")
    _, order = await exchange.call(
        "bob", "POST", "/orders", {"product_id": "BTC-USD", "side": "buy", "price": "110", "size": "1"}
    )
    assert order["price"] == "105"
    change = await receive(socket, "change")
    assert (change["reason"], change["old_price"], change["new_price"]) == ("price_collar", "110", "105")
    assert (change["old_size"], change["new_size"]) == ("1", "1")
    began = await receive(socket, "status_change")
    assert (began["status"], began["cause"]) == ("online", "limit_state")
    assert "until" in began
    _, found = await exchange.call("admin", "GET", "/admin/controls")
    assert [row["limit_side"] for row in found["interruption"]] == [1]
    await exchange.call("bob", "DELETE", f"/orders/{order['id']}")
    ended = await receive(socket, "status_change")
    assert (ended["status"], ended["cause"]) == ("online", "collar")


@pytest.mark.parametrize(
    ("method", "target", "body", "field"),
    [
        ("PUT", "/admin/risk/account/alice", {"currency": "USD", "open": "0"}, "open"),
        ("PUT", "/admin/risk/account/alice", {"orders": 0}, "orders"),
        ("PUT", "/admin/risk/account/alice", {"rate": 10**30}, "rate"),
        ("PUT", "/admin/products/BTC-USD/limits", {"order_size": "0"}, "order_size"),
        ("PUT", "/admin/products/BTC-USD/limits", {"dynamic": "0"}, "dynamic"),
        ("PUT", "/admin/products/BTC-USD/limits", {"extensions": 10**30}, "extensions"),
        ("PUT", "/admin/calendars/c", {"time_zone": "UTC", "week": {}, "random": 10**30}, "random"),
        (
            "POST",
            "/admin/products/BTC-USD/trades/1/correction",
            {"buyer": "a", "seller": "b", "price": "1", "size": "1", "buyer_fee": "0", "seller_fee": "0", "new_price": "0"},
            "new_price",
        ),
    ],
)
async def test_a_limit_of_zero_or_beyond_all_bounds_is_refused(
    exchange: Exchange, method: str, target: str, body: dict[str, object], field: str
) -> None:
    """A zero would mean no limit, and a new price of zero would mean a bust."""
    status, answer = await exchange.call("admin", method, target, body)
    assert (status, answer["field"]) == (400, field), answer
