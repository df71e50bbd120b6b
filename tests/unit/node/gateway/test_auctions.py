"""Auctions as users see them: orders that are collected, indicative prices, openings on every channel, books that stay
right.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse

from loadtest.books import Level2, Level3
from node.native.protocol import AuctionQuery
from tests.unit.node.gateway.harness import Exchange, receive
from tests.unit.node.gateway.price_book import Message, PriceBook


async def put_status(exchange: Exchange, status: str) -> None:
    found, answer = await exchange.call("admin", "PATCH", "/admin/products/BTC-USD", {"status": status})
    assert found == 200, answer


async def subscribed(exchange: Exchange, channels: list[str], **fields: object) -> ClientWebSocketResponse:
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": channels} | fields)
    await receive(socket, "subscriptions")
    return socket


async def collect(exchange: Exchange) -> list[Any]:
    """Place orders on the book, then begin an auction with orders on both sides, which would open with 3 at 101."""
    await exchange.order("bob", "buy", "103", "1")
    await exchange.order("bob", "buy", "101", "2")
    await exchange.order("bob", "buy", "95", "1")
    await exchange.order("bob", "sell", "110", "1")
    await put_status(exchange, "auction")
    orders = [
        await exchange.order("bob", "buy", "104", "1"),
        await exchange.order("alice", "sell", "100", "1"),
        await exchange.order("alice", "sell", "101", "2"),
        await exchange.order("alice", "sell", "105", "1"),
    ]
    assert {order["status"] for order in orders} == {"active"}
    return orders


async def test_the_book_shows_the_indicative_price_and_size(exchange: Exchange) -> None:
    assert (await exchange.get("/products/BTC-USD/book"))[1]["auction"] is None
    await collect(exchange)
    for level in (1, 2, 3):
        _, book = await exchange.get(f"/products/BTC-USD/book?level={level}")
        assert book["auction_mode"] is True
        assert book["auction"] == {
            "auction_state": "collection",
            "open_price": "101",
            "open_size": "3",
            "best_bid_price": "104",
            "best_bid_size": "1",
            "best_ask_price": "100",
            "best_ask_size": "1",
            "can_open": "yes",
            "imbalance_side": book["auction"]["imbalance_side"],
            "imbalance_size": book["auction"]["imbalance_size"],
            "timestamp": book["auction"]["timestamp"],
        }
        assert book["bids"][0][:2] == ["103", "1"], "collected orders are not on the book"
        assert book["asks"][0][:2] == ["110", "1"]
    assert (await exchange.get("/products/BTC-USD/ticker"))[1]["bid"] == "103"
    assert (await exchange.get("/products/BTC-USD/stats"))[1]["volume"] == "0"
    await put_status(exchange, "online")
    _, book = await exchange.get("/products/BTC-USD/book")
    assert (book["auction_mode"], book["auction"]) == (False, None)


async def test_an_auction_without_orders_cannot_open(exchange: Exchange) -> None:
    await put_status(exchange, "auction")
    _, book = await exchange.get("/products/BTC-USD/book")
    auction = book["auction"]
    assert (auction["open_price"], auction["open_size"], auction["can_open"], auction["best_bid_price"]) == ("0", "0", "no", "0")
    await exchange.order("alice", "buy", "100", "1")
    assert (await exchange.get("/products/BTC-USD/book"))[1]["auction"]["best_bid_price"] == "100"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "market", "size": "1"}, "type"),
        ({"price": "100", "size": "1", "time_in_force": "IOC"}, "time_in_force"),
        ({"price": "100", "size": "1", "time_in_force": "FOK"}, "time_in_force"),
        ({"price": "100", "size": "1", "post_only": True}, "post_only"),
    ],
)
async def test_an_order_that_an_auction_does_not_take_is_rejected_by_its_field(
    exchange: Exchange, fields: Message, field: str
) -> None:
    await put_status(exchange, "auction")
    status, answer = await exchange.call("alice", "POST", "/orders", {"product_id": "BTC-USD", "side": "buy"} | fields)
    assert (status, answer["reason"], answer["field"]) == (400, "product_in_auction", field)
    assert "only limit orders that can rest" in answer["message"]


async def test_indicative_prices_and_the_opening_are_sent(exchange: Exchange) -> None:
    await exchange.order("bob", "sell", "110", "1")
    socket = await subscribed(exchange, ["auction"])
    await put_status(exchange, "auction")
    update = await receive(socket, "auction")
    assert (update["auction_state"], update["can_open"]) == ("collection", "no")
    await exchange.order("alice", "buy", "102", "2")
    await exchange.order("bob", "sell", "102", "1")
    while update["open_size"] != "1":
        update = await receive(socket, "auction")
    assert (update["auction_state"], update["open_price"], update["can_open"]) == ("collection", "102", "yes")
    assert update["sequence"] == exchange.backend.engine.product_sequence("BTC-USD")
    late = await subscribed(exchange, ["auction"])
    assert await receive(late) == update, "a later subscriber gets it at once"
    await put_status(exchange, "online")
    while update["auction_state"] == "collection":
        update = await receive(socket, "auction")
    wanted = {"open_price": "102", "open_size": "1", "best_bid_price": "102", "best_bid_size": "1", "best_ask_price": "110"}
    assert update["auction_state"] == "opening"
    assert wanted.items() <= update.items()
    assert await receive(socket) == update | {"auction_state": "complete"}
    assert update["sequence"] == exchange.backend.engine.product_sequence("BTC-USD")


async def test_an_auction_that_does_not_open_is_not_complete(exchange: Exchange) -> None:
    socket = await subscribed(exchange, ["auction", "full"])
    await put_status(exchange, "auction")
    await put_status(exchange, "cancel_only")
    await put_status(exchange, "auction")
    await put_status(exchange, "limit_only")
    states = []
    while "complete" not in states:
        message = await receive(socket)
        states.append(message["auction_state"] if message["type"] == "auction" else message["status"])
    states = [state for state in states if state != "collection"]
    assert states == ["auction", "cancel_only", "auction", "limit_only", "opening", "complete"]


async def test_collected_orders_may_open_after_a_pause(exchange: Exchange) -> None:
    socket = await subscribed(exchange, ["auction"])
    await put_status(exchange, "auction")
    await exchange.order("alice", "buy", "102", "2")
    await exchange.order("bob", "sell", "102", "1")
    await put_status(exchange, "cancel_only")
    await put_status(exchange, "online")
    update = await receive(socket, "auction")
    while update["auction_state"] == "collection":
        update = await receive(socket, "auction")
    assert (update["auction_state"], update["open_price"], update["open_size"]) == ("opening", "102", "1")
    assert (await receive(socket))["auction_state"] == "complete"


async def test_the_engine_is_asked_once_for_each_change(exchange: Exchange) -> None:
    await collect(exchange)
    feed = await exchange.gateway.feeds.feed(await exchange.gateway.catalogue.product("BTC-USD"))
    await feed.refresh_indicative()
    assert json.loads(feed.indicative)["open_size"] == "3"
    before = len(exchange.backend.queried)
    for _ in range(3):
        await feed.refresh_indicative()
    assert len(exchange.backend.queried) == before
    await exchange.order("alice", "sell", "101", "1")
    for _ in range(3):
        await feed.refresh_indicative()
    assert exchange.backend.queried[before:].count(AuctionQuery("BTC-USD")) == 1
    assert json.loads(feed.indicative)["open_size"] == "4"


async def test_an_answer_that_the_opening_overtook_is_not_sent(exchange: Exchange) -> None:
    await collect(exchange)
    feed = await exchange.gateway.feeds.feed(await exchange.gateway.catalogue.product("BTC-USD"))
    stale = await exchange.backend.query(AuctionQuery("BTC-USD"))
    await put_status(exchange, "online")
    feed._indicate(stale)
    assert feed.indicative == b""
    await put_status(exchange, "auction")
    feed._indicate(stale)
    assert feed.indicative == b""


async def test_every_kind_of_book_stays_right_through_an_opening(exchange: Exchange) -> None:
    socket = await subscribed(exchange, ["full", "level2"])
    _, begun = await exchange.get("/products/BTC-USD/book?level=3")
    level3, foreign, level2 = Level3(begun), PriceBook(begun), Level2()
    orders = await collect(exchange)
    await put_status(exchange, "online")
    await exchange.order("alice", "sell", "95", "2")
    _, after = await exchange.get("/products/BTC-USD/book?level=3")
    kinds = []
    while level3.sequence < after["sequence"]:
        message = await receive(socket)
        if message["type"] in ("snapshot", "l2update"):
            level2.take(message)
            continue
        kinds.append(message["type"])
        level3.take(message)
        foreign.apply(message)
    wanted = Level3(after)
    assert level3.rows() == wanted.rows()
    assert foreign.rows() == wanted.rows()
    while level2.levels != wanted.levels():
        level2.take(await receive(socket, "l2update"))
    assert kinds.count("auction_match") == 3
    assert kinds.count("match") == 2
    assert kinds.index("status_change") > 0
    _, order = await exchange.call("alice", "GET", f"/orders/{orders[3]['id']}")
    assert order["status"] == "open", "the untraded rest went on the book"


async def test_a_reader_resumes_anywhere_around_an_opening(exchange: Exchange) -> None:
    live = await subscribed(exchange, ["full"], from_sequence=1)
    await collect(exchange)
    await put_status(exchange, "online")
    await exchange.order("alice", "sell", "95", "1")
    last = exchange.backend.engine.product_sequence("BTC-USD")
    update = [await receive(live) for _ in range(last)]
    assert [message["sequence"] for message in update] == list(range(1, last + 1))
    for first in range(1, last + 1):
        again = await subscribed(exchange, ["full"], from_sequence=first)
        assert [await receive(again) for _ in range(last - first + 1)] == update[first - 1 :]
        await again.close()


async def test_both_parties_of_an_opening_see_their_own_fees(exchange: Exchange) -> None:
    channels = ["user", "matches"]
    alice = await subscribed(exchange, channels, **exchange.socket_signature("alice"))
    bob = await subscribed(exchange, channels, **exchange.socket_signature("bob"))
    await put_status(exchange, "auction")
    first = await exchange.order("bob", "buy", "104", "1")
    second = await exchange.order("alice", "sell", "104", "1")
    await put_status(exchange, "online")
    taker, maker = await receive(alice, "match"), await receive(bob, "match")
    assert (maker["maker_order_id"], maker["taker_order_id"]) == (first["id"], second["id"])
    assert (maker["maker_fee_rate"], maker["maker_fee"], maker["side"]) == ("0.001", "0.11", "buy")
    assert (taker["taker_fee_rate"], taker["taker_fee"]) == ("0.002", "0.21")
    assert "taker_fee" not in maker
    assert "maker_fee" not in taker
