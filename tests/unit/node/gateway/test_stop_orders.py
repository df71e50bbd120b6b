"""Stop orders and good-till-time over HTTP and in the feed, with the field names of Coinbase."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.unit.node.gateway.harness import Exchange, receive

STOP = {"product_id": "BTC-USD", "side": "sell", "price": "90", "size": "1", "stop": "loss", "stop_price": "95"}
LIMIT = {"product_id": "BTC-USD", "side": "buy", "price": "50", "size": "1"}


async def placed(exchange: Exchange, who: str, body: object) -> Any:
    """Place an order that is accepted. Returns its order object."""
    status, answer = await exchange.call(who, "POST", "/orders", body)
    assert status == 200, answer
    return answer


async def trade(exchange: Exchange, price: str) -> None:
    """Make a trade of one coin at a price."""
    await exchange.order("bob", "sell", price, "1")
    await exchange.order("alice", "buy", price, "1", time_in_force="IOC")


async def test_a_stop_order_waits_and_enters_when_a_trade_comes_to_its_price(exchange: Exchange) -> None:
    await exchange.order("bob", "buy", "92", "5")
    order = await placed(exchange, "alice", STOP | {"client_oid": "s-1"})
    found = [order[name] for name in ("status", "stop", "stop_price", "price", "settled", "time_in_force")]
    assert found == ["active", "loss", "95", "90", False, "GTC"]
    assert await exchange.call("alice", "GET", f"/orders/{order['id']}") == (200, order)
    assert await exchange.call("alice", "GET", "/orders/client:s-1") == (200, order)
    await trade(exchange, "96")
    assert (await exchange.call("alice", "GET", f"/orders/{order['id']}"))[1]["status"] == "active"
    await trade(exchange, "95")
    _, done = await exchange.call("alice", "GET", f"/orders/{order['id']}")
    assert (done["status"], done["done_reason"], done["executed_value"], done["stop"]) == ("done", "filled", "92", "loss")


@pytest.mark.parametrize(
    ("body", "stop", "stop_price", "kind"),
    [
        ({"type": "limit", "side": "buy", "price": "110", "stop": "entry", "stop_price": "105"}, "entry", "105", "limit"),
        ({"type": "limit", "side": "buy", "price": "110", "stop": "loss", "stop_price": "80"}, "loss", "80", "limit"),
        ({"type": "limit", "side": "buy", "price": "110", "stop_price": "105"}, "entry", "105", "limit"),
        ({"type": "limit", "side": "sell", "price": "90", "stop_price": "95"}, "loss", "95", "limit"),
        ({"type": "market", "side": "sell", "stop": "loss", "stop_price": "95"}, "loss", "95", "market"),
        ({"type": "market", "side": "buy", "size": None, "funds": "100", "stop_price": "95"}, "entry", "95", "market"),
        ({"type": "stop", "side": "sell", "price": "95"}, "loss", "95", "market"),
        ({"type": "stop", "side": "sell", "stop": "entry", "stop_price": "95"}, "entry", "95", "market"),
        ({"type": "stop", "side": "buy", "price": "95", "size": None, "funds": "100"}, "entry", "95", "market"),
    ],
)
async def test_every_form_of_a_stop_order_is_accepted(
    exchange: Exchange, body: dict[str, object], stop: str, stop_price: str, kind: str
) -> None:
    order = await placed(exchange, "alice", {"product_id": "BTC-USD", "size": "1"} | body)
    assert [order[name] for name in ("stop", "stop_price", "type", "status")] == [stop, stop_price, kind, "active"]
    assert ("price" in order) == (kind == "limit")


@pytest.mark.parametrize(
    ("change", "message", "field"),
    [
        ({"stop": "limit"}, "stop must be one of loss, entry", "stop"),
        ({"stop_price": None}, "stop_price is required with stop", "stop_price"),
        ({"stop_price": "0"}, "Invalid stop order: expected more than 0", "stop_price"),
        ({"stop_price": "95.5"}, "stop_price too precise", "stop_price"),
        ({"stop_price": "95.555"}, "stop_price too precise", "stop_price"),
        ({"stop_price": "-1"}, "stop_price too small", "stop_price"),
        ({"stop_price": "x"}, "stop_price must be a plain decimal number in a string", "stop_price"),
        ({"type": "stop", "stop": None, "stop_price": None, "price": None}, "stop_price is required", "stop_price"),
        ({"type": "stop", "price": "95", "stop_price": "96"}, "Invalid order", "price"),
        ({"type": "market", "price": None, "size": None}, "size or funds is required", "size"),
        ({"size": "0.01"}, "size is too small. Minimum size is 0.02", "size"),
        ({"size": "101"}, "Insufficient funds", "size"),
    ],
)
async def test_a_bad_stop_order_is_refused_by_name(
    exchange: Exchange, change: dict[str, object], message: str, field: str
) -> None:
    status, answer = await exchange.call("alice", "POST", "/orders", STOP | change)
    assert (status, answer["message"], answer["field"]) == (400, message, field)
    assert (await exchange.call("alice", "GET", "/orders?status=all"))[1] == []


async def test_waiting_orders_are_listed_with_the_open_ones(exchange: Exchange) -> None:
    rests = await exchange.order("alice", "buy", "50", "1")
    waits = await placed(exchange, "alice", STOP)
    gone = await exchange.order("alice", "buy", "51", "1")
    await exchange.call("alice", "DELETE", f"/orders/{gone['id']}")

    async def listed(query: str) -> list[str]:
        return [order["id"] for order in (await exchange.call("alice", "GET", f"/orders{query}"))[1]]

    assert await listed("") == [waits["id"], rests["id"]]
    assert await listed("?status=active") == [waits["id"]]
    assert await listed("?status=open") == [rests["id"]]
    assert await listed("?status=open&status=active&status=pending") == [waits["id"], rests["id"]]
    assert await listed("?status=active,done") == [gone["id"], waits["id"]]
    assert await listed("?status=pending") == []
    assert await listed("?status=all") == [gone["id"], waits["id"], rests["id"]]
    assert await listed("?status=open&limit=1") == [rests["id"]], "the newest open one, behind others"


async def test_a_waiting_order_is_cancelled_like_any_other(exchange: Exchange) -> None:
    first, second = await placed(exchange, "alice", STOP), await placed(exchange, "alice", STOP | {"client_oid": "two"})
    assert (await exchange.call("alice", "GET", "/accounts/alice:BTC"))[1]["hold"] == "2"
    assert await exchange.call("alice", "DELETE", f"/orders/{first['id']}") == (200, first["id"])
    assert await exchange.call("alice", "DELETE", "/orders?product_id=BTC-USD") == (200, [second["id"]])
    assert (await exchange.call("alice", "GET", "/accounts/alice:BTC"))[1]["hold"] == "0"
    _, done = await exchange.call("alice", "GET", f"/orders/{first['id']}")
    assert (done["status"], done["done_reason"]) == ("done", "canceled")


async def test_the_feed_reports_that_a_stop_order_waits(exchange: Exchange) -> None:
    public, own = await exchange.socket(), await exchange.socket()
    wanted = {"type": "subscribe", "product_ids": ["BTC-USD"]}
    await public.send_json(wanted | {"channels": ["full", "level2"]})
    await own.send_json(wanted | {"channels": ["user"]} | exchange.socket_signature("alice"))
    await receive(own, "subscriptions")
    assert (await receive(public, "snapshot"))["bids"] == []
    before = (await exchange.get("/products/BTC-USD/book"))[1]["sequence"]
    order = await placed(exchange, "alice", STOP | {"client_oid": "mine"})
    seen, update = await receive(public, "activate"), await receive(own, "activate")
    stamp = datetime.fromisoformat(order["created_at"]).timestamp()
    assert seen == {
        "type": "activate",
        "product_id": "BTC-USD",
        "sequence": before + 1,
        "time": order["created_at"],
        "timestamp": f"{stamp:.6f}",
        "order_id": order["id"],
        "side": "sell",
    }
    own_fields = {"order_type": "limit", "stop_type": "loss", "stop_price": "95", "price": "90", "size": "1"}
    assert update == seen | own_fields | {"user_id": "alice", "profile_id": "alice", "client_oid": "mine", "private": True}
    await exchange.call("alice", "DELETE", f"/orders/{order['id']}")
    done = await receive(public, "done")
    assert (done["sequence"], done["reason"], "price" in done) == (before + 2, "canceled", False), "it was not on the book"
    again = await exchange.socket()
    await again.send_json(wanted | {"channels": ["full"], "from_sequence": before + 1})
    await receive(again, "subscriptions")
    assert [await receive(again) for _ in range(2)] == [seen, done]


async def test_a_stop_orders_entry_follows_the_trade_that_triggered_it(exchange: Exchange) -> None:
    await exchange.order("bob", "buy", "92", "5")
    order = await placed(exchange, "alice", STOP)
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["full", "level2"]})
    await receive(socket, "snapshot")
    await trade(exchange, "95")
    seen: list[Any] = []
    while not seen or seen[-1].get("order_id") != order["id"] or seen[-1]["type"] != "done":
        seen.append(await receive(socket))
    events = [message for message in seen if "sequence" in message]
    assert [message["type"] for message in events if order["id"] in message.values()] == ["received", "match", "done"]
    sequences = [message["sequence"] for message in events]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


@pytest.mark.parametrize(
    ("given", "seconds"), [("min", 60), ("hour", 3_600), ("day", 86_400), ("90", 90), (90, 90), ("31622400", 31_622_400)]
)
async def test_a_good_till_time_order_says_when_it_leaves(exchange: Exchange, given: object, seconds: int) -> None:
    order = await placed(exchange, "alice", LIMIT | {"time_in_force": "GTT", "cancel_after": given})
    lived = datetime.fromisoformat(order["expire_time"]) - datetime.fromisoformat(order["created_at"])
    assert (order["time_in_force"], order["status"], lived) == ("GTT", "open", timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("change", "message", "field"),
    [
        ({"time_in_force": "GTT"}, "cancel_after is required with time_in_force GTT", "cancel_after"),
        ({"cancel_after": "min"}, "cancel_after requires time_in_force GTT", "cancel_after"),
        (
            {"time_in_force": "GTT", "cancel_after": "week"},
            "cancel_after must be one of min, hour, day, or a number",
            "cancel_after",
        ),
        ({"time_in_force": "GTT", "cancel_after": 0}, "cancel_after must be one of min, hour, day, or a number", "cancel_after"),
        ({"time_in_force": "GTT", "cancel_after": -5}, "cancel_after must be one of min, hour, day, or a number", "cancel_after"),
        ({"time_in_force": "GTT", "cancel_after": "31622401"}, "cancel_after must be one of min, hour, day", "cancel_after"),
        ({"time_in_force": "GTT", "cancel_after": "9" * 5000}, "cancel_after must be one of min, hour, day", "cancel_after"),
        ({"time_in_force": "GTT", "cancel_after": 1.5}, "cancel_after: expected int | str | null, got float", "cancel_after"),
        ({"type": "market", "price": None, "time_in_force": "GTT", "cancel_after": "min"}, "Invalid order", "time_in_force"),
    ],
)
async def test_a_bad_time_to_live_is_refused_by_name(
    exchange: Exchange, change: dict[str, object], message: str, field: str
) -> None:
    status, answer = await exchange.call("alice", "POST", "/orders", LIMIT | change)
    assert (status, answer["field"]) == (400, field)
    assert answer["message"].startswith(message)


async def test_an_order_leaves_when_its_time_is_over(exchange: Exchange) -> None:
    order = await placed(exchange, "alice", LIMIT | {"time_in_force": "GTT", "cancel_after": 5, "post_only": True})
    socket = await exchange.socket()
    await socket.send_json(
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["user"]} | exchange.socket_signature("alice")
    )
    await receive(socket, "subscriptions")
    exchange.backend.advance(seconds=5)
    done = await receive(socket, "done")
    found = [done[name] for name in ("order_id", "reason", "cancel_reason", "remaining_size", "price")]
    assert found == [order["id"], "canceled", "101:Time In Force", "1", "50"]
    _, left = await exchange.call("alice", "GET", f"/orders/{order['id']}")
    assert (left["status"], left["done_reason"], left["expire_time"]) == ("done", "canceled", order["expire_time"])
    assert left["done_at"] >= order["expire_time"]


async def test_batches_take_stop_orders_and_times_to_live(exchange: Exchange) -> None:
    orders = [STOP, LIMIT | {"time_in_force": "GTT", "cancel_after": "min"}, STOP | {"stop": "never"}]
    status, answer = await exchange.call("alice", "POST", "/orders/batch", {"orders": orders})
    first, second, third = answer["results"]
    assert (status, first["order"]["status"], second["order"]["status"]) == (200, "active", "open")
    assert (third["success"], third["error"]["field"]) == (False, "stop")


@pytest.mark.parametrize(("asked", "name"), [("ticker_1000", "ticker_batch"), ("level2_50", "level2_batch")])
async def test_channels_have_their_former_names_too(exchange: Exchange, asked: str, name: str) -> None:
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": [asked, name]})
    assert (await receive(socket))["channels"] == [{"name": name, "product_ids": ["BTC-USD"]}]
    await socket.send_json({"type": "unsubscribe", "product_ids": ["BTC-USD"], "channels": [asked]})
    assert (await receive(socket, "subscriptions"))["channels"] == []


async def owner_and_stranger(exchange: Exchange) -> tuple[Any, Any]:
    """Return two sockets that are subscribed to the channel full: one of alice, and one without a key."""
    wanted = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["full"]}
    own, public = await exchange.socket(), await exchange.socket()
    await own.send_json(wanted | exchange.socket_signature("alice"))
    await public.send_json(wanted)
    for socket in (own, public):
        await receive(socket, "subscriptions")
    return own, public


async def test_the_owner_learns_where_a_trailing_stop_is(exchange: Exchange) -> None:
    await trade(exchange, "96")
    own, public = await owner_and_stranger(exchange)
    order = await placed(exchange, "alice", STOP | {"stop_price": "92", "trail": "5"})
    await trade(exchange, "99")
    update = await receive(own, "change")
    assert (update["order_id"], update["reason"], update["new_stop_price"]) == (order["id"], "trailing_stop", "94")
    update = await receive(public, "change")
    assert update["reason"] == "trailing_stop"
    assert "new_stop_price" not in update
    assert (await exchange.call("alice", "GET", f"/orders/{order['id']}"))[1]["stop_price"] == "94"


@pytest.mark.parametrize("change", [{"size": "0.5"}, {"price": "89"}, {"stop_price": "94"}])
async def test_only_the_owner_sees_how_a_waiting_stop_order_is_amended(exchange: Exchange, change: dict[str, str]) -> None:
    own, public = await owner_and_stranger(exchange)
    order = await placed(exchange, "alice", STOP)
    assert (await exchange.call("alice", "PUT", f"/orders/{order['id']}", change))[0] == 200
    update = await receive(own, "change")
    after = {"size": "1", "price": "90", "stop_price": "95"} | change
    assert (update["new_size"], update["new_price"], update["new_stop_price"]) == tuple(after.values())
    update = await receive(public, "change")
    assert update.keys() == {"type", "product_id", "sequence", "time", "side", "order_id", "reason"}


async def test_a_trailing_stop_may_begin_at_the_last_trade(exchange: Exchange) -> None:
    trailing = {name: value for name, value in STOP.items() if name not in ("stop_price", "price")} | {"trail": "5"}
    market = trailing | {"type": "market"}
    status, refused = await exchange.call("alice", "POST", "/orders", market)
    assert (status, refused["field"]) == (400, "stop_price"), "nothing traded yet"
    await placed(exchange, "bob", LIMIT | {"side": "sell", "price": "100"})
    await placed(exchange, "alice", LIMIT | {"price": "100"})
    order = await placed(exchange, "alice", market)
    assert (order["stop"], order["stop_price"], order["trail"]) == ("loss", "95", "5")
    order = await placed(
        exchange, "alice", {name: value for name, value in trailing.items() if name != "stop"} | {"type": "stop"}
    )
    assert (order["stop"], order["stop_price"]) == ("loss", "95")
    status, refused = await exchange.call("alice", "POST", "/orders", {name: STOP[name] for name in STOP if name != "stop_price"})
    assert (status, refused["field"]) == (400, "stop_price")
