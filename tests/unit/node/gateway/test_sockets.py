"""The feed over WebSocket: subscriptions in every form, contiguous sequences, resuming, private messages, limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import WSMsgType

from node.gateway import feeds, sessions, sockets
from node.gateway import limits as bounds
from node.gateway.channels import CHANNELS
from node.keys.credentials import sign
from node.native.protocol import AnyQuery, BookPageQuery
from statemachine.commands import PlaceOrder
from statemachine.types import OrderType, Side
from tests.unit.node.gateway.harness import FULL, Exchange, gather, receive, subscribe, trade
from tests.waiting import until


@pytest.mark.parametrize(
    ("message", "channels"),
    [
        ({"product_ids": ["BTC-USD"]}, {"full": ["BTC-USD"]}),
        ({"product_ids": ["BTC/USD"]}, {"full": ["BTC-USD"]}),
        ({"product_ids": ["BTC-USD"], "channels": ["ticker", "heartbeat"]}, {"heartbeat": ["BTC-USD"], "ticker": ["BTC-USD"]}),
        ({"channels": [{"name": "matches", "product_ids": ["ETH-BTC", "BTC-USD"]}]}, {"matches": ["BTC-USD", "ETH-BTC"]}),
        (
            {"product_ids": ["BTC-USD"], "channels": ["level2", {"name": "ticker", "product_ids": ["ETH-BTC"]}]},
            {"ticker": ["BTC-USD", "ETH-BTC"], "level2": ["BTC-USD"]},
        ),
        ({"channels": ["status"]}, {"status": []}),
        ({"channels": [{"name": "status"}], "product_ids": ["BTC-USD"]}, {"status": []}),
    ],
)
async def test_every_form_of_a_subscription_is_accepted(
    exchange: Exchange, message: dict[str, object], channels: dict[str, list[str]]
) -> None:
    for signature in ({}, exchange.socket_signature("alice")):
        socket = await exchange.socket()
        await socket.send_json({"type": "subscribe"} | message | signature)
        answer = await receive(socket)
        assert answer["type"] == "subscriptions"
        assert {row["name"]: row["product_ids"] for row in answer["channels"]} == channels
        await socket.close()


async def test_the_root_path_with_a_question_mark_and_ws_both_serve(exchange: Exchange) -> None:
    for path in ("/", "/?", "/ws"):
        socket = await exchange.client.ws_connect(path)
        await socket.send_json(FULL)
        assert (await receive(socket))["type"] == "subscriptions"
        await socket.close()
    response = await exchange.client.get("/")
    assert response.status == 426


async def test_full_is_contiguous_and_shaped(exchange: Exchange) -> None:
    socket = await subscribe(exchange, product_ids=["BTC-USD"])
    maker = await exchange.order("bob", "sell", "100", "2", client_oid="secret")
    taker = await exchange.order("alice", "buy", "100", "1")
    await exchange.call("bob", "DELETE", f"/orders/{maker['id']}")
    messages = await gather(socket, 6)
    assert [message["sequence"] for message in messages] == [2, 3, 4, 5, 6, 7]
    assert [message["type"] for message in messages] == ["received", "open", "received", "match", "done", "done"]
    received, opened, _, match, taken, cancelled = messages
    assert received == {
        "type": "received",
        "product_id": "BTC-USD",
        "sequence": 2,
        "time": received["time"],
        "side": "sell",
        "order_id": maker["id"],
        "order_type": "limit",
        "price": "100",
        "size": "2",
    }
    assert (opened["price"], opened["remaining_size"]) == ("100", "2")
    assert (match["maker_order_id"], match["taker_order_id"], match["side"]) == (maker["id"], taker["id"], "sell")
    assert (match["trade_id"], match["price"], match["size"]) == (1, "100", "1")
    assert (taken["order_id"], taken["reason"], "price" in taken) == (taker["id"], "filled", False)
    assert (cancelled["reason"], cancelled["price"], cancelled["remaining_size"]) == ("canceled", "100", "1")


async def test_self_trade_prevention_shows_as_change(exchange: Exchange) -> None:
    await exchange.order("alice", "sell", "100", "3")
    socket = await subscribe(exchange, product_ids=["BTC-USD"])
    await exchange.order("alice", "buy", "100", "1")
    change = await receive(socket, "change")
    assert (change["old_size"], change["new_size"], change["reason"], change["price"]) == ("3", "2", "STP", "100")


async def test_several_subscriptions_never_double_an_event(exchange: Exchange) -> None:
    socket = await exchange.socket()
    signature = exchange.socket_signature("alice")
    for channels in (["full"], ["matches", "user"], ["full", "user", "matches"]):
        await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": channels} | signature)
        await receive(socket, "subscriptions")
    await trade(exchange)
    await exchange.order("alice", "buy", "50", "1")
    sequences = [message["sequence"] for message in await gather(socket, 8)]
    assert sequences == list(range(2, 10))


async def test_owners_see_more_than_others(exchange: Exchange) -> None:
    signature = exchange.socket_signature("alice")
    own = await subscribe(exchange, product_ids=["BTC-USD"], channels=["user"], **signature)
    public = await subscribe(exchange, product_ids=["BTC-USD"])
    await exchange.order("bob", "sell", "100", "1", client_oid="of-bob")
    await exchange.order("alice", "buy", "100", "1", client_oid="of-alice")
    received, match, done = await gather(own, 3)
    assert [message["sequence"] for message in (received, match, done)] == [4, 5, 7] or done["sequence"] > match["sequence"]
    assert (received["client_oid"], received["user_id"], received["profile_id"]) == ("of-alice", "alice", "alice")
    assert (match["taker_user_id"], match["taker_fee_rate"], match["taker_fee"]) == ("alice", "0.002", "0.2")
    assert "maker_user_id" not in match
    everything = json.dumps(await gather(public, 6))
    for secret in ("of-bob", "of-alice", "alice", "bob"):
        assert secret not in everything


async def test_the_fee_rate_is_that_of_the_order_in_spite_of_rounding(exchange: Exchange) -> None:
    """A second fill pays a unit less for what the first one paid too much. A resting order keeps the rate of its entry."""
    alice = await subscribe(exchange, product_ids=["BTC-USD"], channels=["user"], **exchange.socket_signature("alice"))
    bob = await subscribe(exchange, product_ids=["BTC-USD"], channels=["user"], **exchange.socket_signature("bob"))
    for _ in range(2):
        await exchange.order("bob", "sell", "101", "0.5")
    await exchange.order("alice", "buy", "101", "1")
    taken = [await receive(alice, "match") for _ in range(2)]
    assert [(match["taker_fee_rate"], match["taker_fee"]) for match in taken] == [("0.002", "0.11"), ("0.002", "0.1")]
    made = [await receive(bob, "match") for _ in range(2)]
    assert [(match["maker_fee_rate"], match["maker_fee"]) for match in made] == [("0.001", "0.06")] * 2
    await exchange.order("bob", "sell", "100", "1")
    assert (await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"maker_fee_rate": "0.005"}))[0] == 200
    await exchange.order("alice", "buy", "100", "1")
    match = await receive(bob, "match")
    assert (match["maker_fee_rate"], match["maker_fee"]) == ("0.001", "0.1")


async def test_the_user_channel_needs_a_signature(exchange: Exchange) -> None:
    socket = await exchange.socket()
    await socket.send_json(FULL | {"channels": ["user"]})
    error = await receive(socket)
    assert error == {
        "type": "error",
        "message": "Authentication Failed",
        "reason": '{"message":"the channel user needs a signature"}',
    }
    for change, word in (
        ({"signature": "AAAA"}, "invalid signature"),
        ({"key": "nobody"}, "invalid signature"),
        ({"passphrase": "x"}, "Invalid Passphrase"),
        ({"timestamp": 5}, "request timestamp expired"),
        ({"timestamp": None}, "timestamp is required with the other fields of a signature"),
        ({"signature": None}, "signature is required with the other fields of a signature"),
    ):
        await socket.send_json(FULL | {"channels": ["user"]} | exchange.socket_signature("alice") | change)
        error = await receive(socket)
        assert (error["message"], json.loads(error["reason"])) == ("Authentication Failed", {"message": word})


@pytest.mark.parametrize("form", [int, float, str])
async def test_the_timestamp_may_be_a_number(exchange: Exchange, form: type) -> None:
    signature = exchange.socket_signature("alice")
    if form is float:
        signature = dict(signature)
        stamp = f"{int(str(signature['timestamp']))}.5"
        signature |= {
            "timestamp": float(stamp),
            "signature": sign(exchange.keys["alice"].secret, stamp, "GET", "/users/self/verify"),
        }
    else:
        signature = signature | {"timestamp": form(str(signature["timestamp"]))}
    await subscribe(exchange, product_ids=["BTC-USD"], channels=["user"], **signature)


async def test_level2_follows_the_book(exchange: Exchange) -> None:
    await exchange.order("bob", "sell", "101", "2")
    await exchange.order("alice", "buy", "99", "1")
    await exchange.order("alice", "buy", "99", "2")
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["level2"], **exchange.socket_signature("alice"))
    snapshot = await receive(socket)
    assert (snapshot["type"], snapshot["bids"], snapshot["asks"]) == ("snapshot", [["99", "3"]], [["101", "2"]])
    await exchange.order("alice", "buy", "101", "0.5")
    assert (await receive(socket))["changes"] == [["sell", "101", "1.5"]]
    await exchange.order("alice", "buy", "101", "2")
    assert (await receive(socket))["changes"] == [["sell", "101", "0"], ["buy", "101", "0.5"]]
    await exchange.call("alice", "DELETE", "/orders")
    assert sorted((await receive(socket))["changes"]) == [["buy", "101", "0"], ["buy", "99", "0"]]


async def test_level2_batch_gathers_changes_and_ends_at_the_book(exchange: Exchange) -> None:
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["level2_batch"])
    assert (await receive(socket))["type"] == "snapshot"
    for price in ("100", "101", "100"):
        await exchange.order("alice", "buy", price, "1")
    levels: dict[str, str] = {}
    while levels != {"100": "2", "101": "1"}:
        update = await receive(socket)
        assert update["type"] == "l2update"
        levels |= {price: size for _, price, size in update["changes"]}


async def test_a_batched_channel_beside_its_own_sends_nothing_twice(exchange: Exchange) -> None:
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["level2", "level2_batch", "full"])
    for _ in range(2):
        assert (await receive(socket))["type"] == "snapshot"
    await exchange.order("alice", "buy", "100", "1")
    assert [(await receive(socket))["type"] for _ in range(3)] == ["received", "open", "l2update"]
    (session,) = exchange.gateway.feeds.sessions
    assert isinstance(session, sessions.Subscriptions)
    assert session.following["BTC-USD"].flush is None, "nothing else will come"


async def test_ticker_batch_reports_trades_every_few_seconds(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TICKER_BATCH_TICKS", 1)
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["ticker_batch"])
    for _ in range(3):
        await trade(exchange)
    (session,) = exchange.gateway.feeds.sessions
    trade_ids: list[int] = []
    for last in (3, 4):
        session.tick()
        session.tick()
        while last not in trade_ids:
            trade_ids.append((await receive(socket, "ticker"))["trade_id"])
        await trade(exchange)
    assert trade_ids == sorted(set(trade_ids)), "a second without a trade has no message"


async def test_ticker_and_matches_begin_with_the_last_trade(exchange: Exchange) -> None:
    await trade(exchange, "100")
    await trade(exchange, "102")
    await exchange.order("alice", "buy", "90", "1")
    socket = await exchange.socket()
    await socket.send_json(FULL | {"channels": ["ticker", "matches"]})
    await receive(socket, "subscriptions")
    ticker, last = await gather(socket, 2)
    assert (ticker["type"], ticker["price"], ticker["trade_id"], ticker["open_24h"], ticker["volume_24h"]) == (
        "ticker",
        "102",
        2,
        "100",
        "2",
    )
    assert (ticker["best_bid"], ticker["best_bid_size"], ticker["best_ask"], ticker["side"]) == ("90", "1", "0", "buy")
    assert (last["type"], last["trade_id"]) == ("last_match", 2)
    await trade(exchange, "103")
    match, ticker = await gather(socket, 2)
    assert (match["type"], match["price"], ticker["type"], ticker["last_size"], ticker["low_24h"]) == (
        "match",
        "103",
        "ticker",
        "1",
        "100",
    )


async def test_heartbeat_and_status_come_with_time(exchange: Exchange) -> None:
    await trade(exchange)
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["heartbeat", "status"])
    heartbeat = await receive(socket, "heartbeat")
    assert (heartbeat["product_id"], heartbeat["sequence"], heartbeat["last_trade_id"]) == ("BTC-USD", 7, 1)
    status = await receive(socket, "status")
    assert [product["id"] for product in status["products"]] == ["BTC-USD", "ETH-BTC"]
    assert len(status["currencies"]) == 3


async def test_unsubscribing_ends_the_messages(exchange: Exchange) -> None:
    socket = await subscribe(exchange, product_ids=["BTC-USD", "ETH-BTC"], channels=["full", "ticker"])
    await socket.send_json({"type": "unsubscribe", "product_ids": ["BTC-USD"], "channels": ["full"]})
    assert (await receive(socket))["channels"] == [
        {"name": "ticker", "product_ids": ["BTC-USD", "ETH-BTC"]},
        {"name": "full", "product_ids": ["ETH-BTC"]},
    ]
    await socket.send_json({"type": "unsubscribe", "channels": ["full"]})
    assert (await receive(socket))["channels"] == [{"name": "ticker", "product_ids": ["BTC-USD", "ETH-BTC"]}]
    await trade(exchange)
    assert (await receive(socket))["type"] == "ticker"
    await socket.send_json({"type": "unsubscribe", "product_ids": ["BTC-USD", "ETH-BTC"]})
    assert (await receive(socket))["channels"] == []


async def test_resuming_leaves_no_gap_and_doubles_nothing(exchange: Exchange) -> None:
    for _ in range(4):
        await trade(exchange)
    last = exchange.backend.engine.product_sequence("BTC-USD")
    socket = await exchange.socket()
    await socket.send_json(FULL | {"resume": {"BTC-USD": 3}})
    await receive(socket, "subscriptions")
    for _ in range(3):
        await trade(exchange)
    end = exchange.backend.engine.product_sequence("BTC-USD")
    assert [message["sequence"] for message in await gather(socket, end - 3)] == list(range(4, end + 1))
    assert last < end


@pytest.mark.parametrize("first", [4, {"BTC-USD": 4}, {"BTC/USD": 4}])
async def test_the_first_sequence_wanted_may_be_named(exchange: Exchange, first: object) -> None:
    for _ in range(3):
        await trade(exchange)
    end = exchange.backend.engine.product_sequence("BTC-USD")
    socket = await subscribe(exchange, product_ids=["BTC-USD"], from_sequence=first)
    assert [message["sequence"] for message in await gather(socket, end - 3)] == list(range(4, end + 1))


async def test_the_channel_matches_can_be_resumed_alone(exchange: Exchange) -> None:
    for _ in range(4):
        await trade(exchange)
    socket = await exchange.socket()
    await socket.send_json(FULL | {"channels": ["matches"], "resume": {"BTC-USD": 6}})
    await receive(socket, "subscriptions")
    await trade(exchange)
    assert [message["trade_id"] for message in await gather(socket, 4)] == [2, 3, 4, 5]


async def test_a_reader_that_is_ahead_of_this_node_waits_for_it(exchange: Exchange) -> None:
    await trade(exchange)
    socket = await subscribe(exchange, product_ids=["BTC-USD"], resume={"BTC-USD": 8})
    await trade(exchange)
    await trade(exchange)
    assert (await receive(socket))["sequence"] == 9


async def test_a_sequence_that_is_too_old_is_an_error_and_no_subscription(exchange: Exchange) -> None:
    for _ in range(3):
        await trade(exchange)
    exchange.backend.kept_from = 10
    socket = await exchange.socket()
    await socket.send_json(FULL | {"channels": ["full", "ticker"], "resume": {"BTC-USD": 2}})
    await receive(socket, "subscriptions")
    error = await receive(socket, "error")
    assert "sequence too old" in error["message"]
    assert (await receive(socket, "subscriptions"))["channels"] == [{"name": "ticker", "product_ids": ["BTC-USD"]}]


async def test_an_engine_that_restarts_is_not_a_gap(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RETRY_MIN", 0.01)
    socket = await subscribe(exchange, product_ids=["BTC-USD"])
    await trade(exchange)
    exchange.backend.lose("BTC-USD")
    await trade(exchange)
    end = exchange.backend.engine.product_sequence("BTC-USD")
    assert [message["sequence"] for message in await gather(socket, end - 1)] == list(range(2, end + 1))


async def test_a_gap_sends_readers_away_with_the_reason(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RETRY_MIN", 0.01)
    socket = await subscribe(exchange, product_ids=["BTC-USD"])
    lost = exchange.backend.subscribers.pop("BTC-USD")
    await trade(exchange)
    exchange.backend.kept_from = exchange.backend.engine.product_sequence("BTC-USD") + 1
    for _, on_lost in lost:
        on_lost("the engine went away")
    async with asyncio.timeout(5):
        message = await socket.receive()
    assert (message.type, message.data) == (WSMsgType.CLOSE, sessions.RESTART)
    assert "BTC-USD" in str(message.extra)
    again = await subscribe(exchange, product_ids=["BTC-USD"])
    await trade(exchange)
    assert (await receive(again))["sequence"] == exchange.backend.kept_from


async def test_a_subscriber_that_comes_while_a_feed_begins_again_is_ended_too(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "RETRY_MIN", 0.01)
    await subscribe(exchange, product_ids=["BTC-USD"])
    lost = exchange.backend.subscribers.pop("BTC-USD")
    await trade(exchange)
    exchange.backend.kept_from = exchange.backend.engine.product_sequence("BTC-USD") + 1
    asked, go_on, query = asyncio.Event(), asyncio.Event(), exchange.backend.query

    async def slow(wanted: AnyQuery, linearizable: bool = False) -> Any:
        if isinstance(wanted, BookPageQuery):
            asked.set()
            await go_on.wait()
        return await query(wanted, linearizable)

    monkeypatch.setattr(exchange.backend, "query", slow)
    for _, on_lost in lost:
        on_lost("the engine went away")
    async with asyncio.timeout(5):
        await asked.wait()
        early = await subscribe(exchange, product_ids=["BTC-USD"])
        go_on.set()
        message = await early.receive()
    assert (message.type, message.data) == (WSMsgType.CLOSE, sessions.RESTART)


async def test_a_reader_that_catches_up_too_slowly_gives_its_source_back(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CATCH_UP_QUEUE", 3)
    monkeypatch.setattr(sessions, "CATCH_UP_STALL", 0.01)
    for _ in range(4):
        await trade(exchange)
    feed = await exchange.gateway.feeds.feed(await exchange.gateway.catalogue.product("BTC-USD"))
    ended: list[int] = []
    limits, metrics = exchange.gateway.socket_limits, exchange.gateway.metrics
    reader = sessions.Subscriptions(exchange.gateway.feeds, metrics, limits, "::1", lambda code, _reason: ended.append(code))
    reader.subscribe({"full": [feed]}, {"BTC-USD": 0})
    await until(lambda: bool(ended))
    assert ended == [sessions.SLOW]
    assert reader not in feed.readers


async def test_a_slow_reader_is_cut_off(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "QUEUE_MAX", 100)
    socket = await subscribe(exchange, product_ids=["BTC-USD"])
    place = [PlaceOrder("alice", f"g:{number}", "BTC-USD", Side.BUY, OrderType.LIMIT, 10_000, 10**7) for number in range(100)]
    exchange.backend.apply(*place)
    async with asyncio.timeout(5):
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            continue
    assert (message.type, message.data) == (WSMsgType.CLOSE, sessions.SLOW)
    assert "slow consumer" in str(message.extra)
    assert (
        'quorumbook_websocket_cut_off_total{node="n1",reason="slow",worker="0"} 1.0' in exchange.gateway.metrics.render().decode()
    )


async def test_a_flood_of_messages_is_cut_off(exchange: Exchange) -> None:
    socket = await exchange.socket()
    for _ in range(int(bounds.MESSAGES_BURST) + 50):
        await socket.send_str("{}")
    async with asyncio.timeout(5):
        while (message := await socket.receive()).type is WSMsgType.TEXT:
            continue
    assert (message.type, message.data) == (WSMsgType.CLOSE, sockets.POLICY)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "JSON object"),
        ("[]", "JSON object"),
        ("{", "JSON object"),
        ("[" * 20_000, "JSON object"),
        ('{"type":"subscribe","resume":' + '{"a":' * 5_000, "resume"),
        ('{"type":"sing"}', "type must be"),
        ('{"type":7}', "type: expected str"),
        ("{}", "type is required"),
        ('{"type":"subscribe"}', "product_ids is required"),
        ('{"type":"subscribe","channels":[]}', "channels"),
        ('{"type":"subscribe","channels":[1]}', "channels[0]"),
        ('{"type":"subscribe","channels":["nope"],"product_ids":["BTC-USD"]}', "Failed to subscribe"),
        ('{"type":"subscribe","product_ids":["NO-SUCH"]}', "Product not found"),
        ('{"type":"subscribe","product_ids":"BTC-USD"}', "product_ids: expected array"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"colour":1}', "colour is not a field"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"resume":{"BTC-USD":-1}}', "resume"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"resume":{"BTC-USD":99999999999999999999}}', "resume"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"resume":{"ETH-BTC":1}}', "resume"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"from_sequence":0}', "from_sequence"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"from_sequence":{"ETH-BTC":1}}', "from_sequence"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"channels":["ticker"],"from_sequence":5}', "from_sequence"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"from_sequence":1,"resume":{"BTC-USD":1}}', "from_sequence"),
        ('{"type":"subscribe","product_ids":["BTC-USD"],"channels":["ticker"],"resume":{"BTC-USD":1}}', "resume"),
    ],
)
async def test_malformed_messages_are_answered_and_the_connection_continues(exchange: Exchange, text: str, word: str) -> None:
    socket = await exchange.socket()
    await socket.send_str(text)
    error = await receive(socket)
    assert error["type"] == "error"
    assert word in error["message"]
    await socket.send_json(FULL)
    assert (await receive(socket))["type"] == "subscriptions"


async def test_an_oversized_message_closes_the_connection(exchange: Exchange) -> None:
    socket = await exchange.socket()
    await socket.send_str("x" * (sockets.MESSAGE_MAX + 1))
    async with asyncio.timeout(5):
        message = await socket.receive()
    assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)


async def test_sessions_that_end_leave_nothing_behind(exchange: Exchange) -> None:
    for _ in range(3):
        socket = await subscribe(
            exchange, product_ids=["BTC-USD"], channels=[name for name in CHANNELS if name not in ("user", "balance")]
        )
        await socket.close()
    await until(lambda: not exchange.gateway.feeds.sessions)
    feed = await exchange.gateway.feeds.feed(await exchange.gateway.catalogue.product("BTC-USD"))
    assert feed.readers == {}


async def test_a_stopping_gateway_closes_connections_with_the_reason(exchange: Exchange) -> None:
    socket = await subscribe(exchange, product_ids=["BTC-USD"])
    await exchange.gateway.feeds.close()
    async with asyncio.timeout(5):
        message = await socket.receive()
    assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 1001, "the node is stopping")
