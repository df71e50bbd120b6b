"""The messages of the WebSocket channels, read as strictly as the strictest client reads them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from node.gateway import sessions
from node.gateway.channels import LEVEL3_SCHEMA
from node.gateway.sessions import Subscriptions
from node.native.products import put_again
from statemachine.commands import AnyCommand, CancelOrder, PlaceOrder
from statemachine.types import OrderType, ProductStatus, SelfTradePrevention, Side, TimeInForce
from tests.unit.node.gateway.harness import FULL, Exchange, receive, subscribe, trade
from tests.waiting import until

LOT = 10**6
STATUSES = [ProductStatus.AUCTION, ProductStatus.ONLINE, ProductStatus.ONLINE, ProductStatus.CANCEL_ONLY]


class StrictLevels:
    """A level 2 reader that checks everything: a removed level must be known, and every change must change something."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}
        self.updates = 0

    def take(self, message: Any) -> None:
        if message["type"] == "snapshot":
            self.sides = {"buy": dict(message["bids"]), "sell": dict(message["asks"])}
        elif message["type"] == "l2update":
            self.updates += 1
            assert message["changes"], "an update without a change"
            for side, price, size in message["changes"]:
                assert self.sides[side].get(price, "0") != size, "nothing changed"
                if size == "0":
                    del self.sides[side][price]
                else:
                    self.sides[side][price] = size


class StrictOrders:
    """A level 3 reader: an order that changes, trades or leaves must be known."""

    def __init__(self, book: Any) -> None:
        rows = [(side, row) for side, name in (("buy", "bids"), ("sell", "asks")) for row in book[name]]
        self.sequence = book["sequence"]
        self.orders = {order: (side, price, size) for side, (price, size, order) in rows}

    def take(self, message: list[str]) -> None:
        kind, _, sequence, *rest = message
        assert int(sequence) == self.sequence + 1, "a message is missing"
        self.sequence += 1
        if kind == "open":
            order, side, price, size, _ = rest
            assert order not in self.orders
            self.orders[order] = side, price, size
        elif kind == "match":
            maker, _, price, size, _ = rest
            side, known, left = self.orders[maker]
            assert known == price
            self.orders[maker] = side, known, f"{float(left) - float(size):g}"
        elif kind == "change":
            order, price, size, _ = rest
            side, known, _ = self.orders[order]
            assert known == price
            self.orders[order] = side, known, size
        elif kind == "done":
            del self.orders[rest[0]]
        else:
            assert kind == "noop"


def step(random: Random, number: int, row: Any) -> list[AnyCommand]:
    """Draw what one log entry contains: often an order and what undoes it."""
    commands: list[AnyCommand] = []
    for part in range(random.randint(1, 4)):
        account, kind = random.choice(["alice", "bob"]), random.random()
        if kind < 0.05:
            commands.append(put_again(row, f"s{number}.{part}", status=random.choice(STATUSES)))
        elif kind < 0.35:
            last = CancelOrder(account, f"x{number}.{part}", random.randint(max(1, number * 2 - 12), number * 2 + 4))
            commands.append(last)
        else:
            price = 100 * random.randint(98, 103)
            force = random.choice([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC])
            size, stp = 2 * LOT * random.randint(1, 5), random.choice(list(SelfTradePrevention))
            side = random.choice(list(Side))
            order = PlaceOrder(account, f"p{number}.{part}", "BTC-USD", side, OrderType.LIMIT, price, size, 0, force, False, stp)
            commands.append(order)
    return commands


def queued(reader: Subscriptions) -> list[Any]:
    """Take out what waits for a reader."""
    found = [json.loads(message) for message in reader._queue]
    reader._queue.clear()
    return found


@pytest.mark.parametrize("seed", range(5))
async def test_a_strict_reader_follows_every_channel_of_the_book(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Formerly a level that came and went within one entry was sent as removed, although no client knew it (cryptofeed:
    KeyError).
    """
    monkeypatch.setattr(sessions, "QUEUE_MAX", 10**6)
    random, backend = Random(seed), exchange.backend
    feed = await exchange.gateway.feeds.feed(await exchange.gateway.catalogue.product("BTC-USD"))
    readers: dict[str, Subscriptions] = {}
    for name in ("level2", "level2_batch", "level3"):
        limits, metrics = exchange.gateway.socket_limits, exchange.gateway.metrics
        readers[name] = Subscriptions(exchange.gateway.feeds, metrics, limits, "::1", lambda _code, _reason: None)
    book = (await exchange.get("/products/BTC-USD/book?level=3"))[1]
    orders, levels = StrictOrders(book), {name: StrictLevels() for name in ("level2", "level2_batch")}
    for name, reader in readers.items():
        reader.subscribe({name: [feed]}, {})
    for number in range(300):
        backend.apply(*step(random, number, backend.engine.product("BTC-USD")))
        if random.random() < 0.2:
            for following in readers["level2_batch"].following.values():
                if following.flush is not None:
                    following.flush.cancel()
                    readers["level2_batch"]._flush(following)
        if random.random() < 0.02:  # in the middle of a batch another channel brings a snapshot
            readers["level2_batch"].subscribe({"level2": [feed]}, {})
            readers["level2_batch"].unsubscribe({"level2": ["BTC-USD"]})
        for name, follower in levels.items():
            for message in queued(readers[name]):
                follower.take(message)
        for message in queued(readers["level3"]):
            if isinstance(message, list):
                orders.take(message)
    for following in readers["level2_batch"].following.values():
        readers["level2_batch"]._flush(following)
    for message in queued(readers["level2_batch"]):
        levels["level2_batch"].take(message)
    shown = (await exchange.get("/products/BTC-USD/book?level=3"))[1]
    wanted = StrictOrders(shown)
    assert (orders.sequence, orders.orders) == (wanted.sequence, wanted.orders)
    snapshot = json.loads(feed.snapshot())
    for follower in levels.values():
        assert follower.sides == {"buy": dict(snapshot["bids"]), "sell": dict(snapshot["asks"])}
        assert follower.updates > 20


async def test_a_level_that_was_never_announced_is_never_removed(exchange: Exchange) -> None:
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["level2"])
    assert (await receive(socket))["type"] == "snapshot"
    buy = {"product_id": "BTC-USD", "side": "buy", "price": "5", "size": "1"}
    sell = buy | {"side": "sell", "time_in_force": "IOC", "stp": "cb"}
    status, _ = await exchange.call("alice", "POST", "/orders/batch", {"orders": [buy, sell]})
    assert status == 200
    await exchange.order("alice", "buy", "6", "1")
    assert (await receive(socket, "l2update"))["changes"] == [["buy", "6", "1"]]


async def test_level3_begins_with_its_schema_and_sends_every_sequence(exchange: Exchange) -> None:
    socket = await subscribe(exchange, product_ids=["BTC-USD", "ETH-BTC"], channels=["level3"])
    schema = await receive(socket)
    assert schema == json.loads(LEVEL3_SCHEMA)
    maker = await exchange.order("bob", "sell", "100", "2")
    taker = await exchange.order("alice", "buy", "100", "1")
    await exchange.call("bob", "DELETE", f"/orders/{maker['id']}")
    rows = [await receive(socket) for _ in range(6)]
    assert [row[0] for row in rows] == ["noop", "open", "noop", "match", "noop", "done"]
    assert [row[2] for row in rows] == ["2", "3", "4", "5", "6", "7"]
    for row in rows:
        assert len(row) == len(schema["schema"][row[0]])
        assert row[1] == "BTC-USD"
    assert rows[1][3:7] == [maker["id"], "sell", "100", "2"]
    assert rows[3][3:7] == [maker["id"], taker["id"], "100", "1"]
    assert rows[5][3] == maker["id"]


async def test_level3_can_be_resumed(exchange: Exchange) -> None:
    for _ in range(3):
        await trade(exchange)
    end = exchange.backend.engine.product_sequence("BTC-USD")
    socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["level3"], from_sequence=4)
    await receive(socket)
    assert [int((await receive(socket))[2]) for _ in range(end - 3)] == list(range(4, end + 1))


async def test_the_auction_channel_has_the_name_of_coinbase_too(exchange: Exchange) -> None:
    socket = await exchange.socket()
    await socket.send_json(FULL | {"channels": ["auctionfeed"]})
    assert (await receive(socket))["channels"] == [{"name": "auction", "product_ids": ["BTC-USD"]}]


class TestBalance:
    async def test_the_channel_balance_sends_the_present_balances_and_their_changes(self, exchange: Exchange) -> None:
        socket = await exchange.socket()
        message = {"type": "subscribe", "channels": ["balance"], "account_ids": ["alice:USD", "alice:BTC"]}
        await socket.send_json(message | exchange.socket_signature("alice"))
        answer = await receive(socket)
        wanted = {"name": "balance", "product_ids": [], "account_ids": ["alice:USD", "alice:BTC"]}
        assert answer["channels"] == [wanted]
        first = {each["currency"]: each for each in (await receive(socket, "balance"), await receive(socket, "balance"))}
        assert first["USD"]["account_id"] == "alice:USD"
        assert (first["USD"]["available"], first["USD"]["holds"]) == ("1000000", "0")
        assert set(first["BTC"]) == {"type", "account_id", "currency", "holds", "available", "updated", "timestamp"}
        await exchange.order("alice", "buy", "100", "1")
        changed = await receive(socket, "balance")
        assert (changed["currency"], changed["available"], changed["holds"]) == ("USD", "999899.8", "100.2")
        body = {"currency": "BTC", "amount": "1", "transfer_id": "more"}
        assert (await exchange.call("admin", "POST", "/admin/accounts/alice/deposits", body))[0] == 200
        assert (await receive(socket, "balance"))["available"] == "101"

    async def test_the_accounts_may_stand_in_the_channel_or_be_left_out(self, exchange: Exchange) -> None:
        for channel in ({"name": "balance", "account_ids": ["alice:ETH"]}, "balance"):
            socket = await exchange.socket()
            await socket.send_json({"type": "subscribe", "channels": [channel]} | exchange.socket_signature("alice"))
            (listed,) = (await receive(socket))["channels"]
            assert listed["account_ids"] == (
                ["alice:ETH"] if isinstance(channel, dict) else ["alice:BTC", "alice:ETH", "alice:USD"]
            )
            await socket.send_json({"type": "unsubscribe", "channels": ["balance"]})
            assert (await receive(socket, "subscriptions"))["channels"] == []
            await socket.close()

    async def test_only_the_owner_gets_balances(self, exchange: Exchange) -> None:
        socket = await exchange.socket()
        await socket.send_json({"type": "subscribe", "channels": ["balance"]})
        assert (await receive(socket))["message"] == "Authentication Failed"
        message = {"type": "subscribe", "channels": ["balance"], "account_ids": ["bob:USD"]}
        await socket.send_json(message | exchange.socket_signature("alice"))
        assert "bob:USD is not an account of the API key" in (await receive(socket))["message"]

    async def test_many_accounts_are_examined_in_turn(self, exchange: Exchange) -> None:
        """Each account is one request to the engine, however many connections listen for it."""
        for _ in range(5):
            socket = await exchange.socket()
            await socket.send_json({"type": "subscribe", "channels": ["balance"]} | exchange.socket_signature("alice"))
            await receive(socket, "balance")
        assert await exchange.gateway.balances.look() == 1


class TestUnknownChannels:
    async def test_an_unknown_channel_is_refused_alone(self, exchange: Exchange) -> None:
        socket = await exchange.socket()
        await socket.send_json(FULL | {"channels": ["ticker", "rfq_matches", "heartbeat"]})
        answer, error = await receive(socket), await receive(socket)
        assert [row["name"] for row in answer["channels"]] == ["heartbeat", "ticker"]
        assert error == {"type": "error", "message": "Failed to subscribe", "reason": "rfq_matches is not a channel"}

    async def test_a_message_with_unknown_channels_only_subscribes_nothing(self, exchange: Exchange) -> None:
        socket = await exchange.socket()
        await socket.send_json(FULL | {"channels": ["nope"]})
        assert (await receive(socket))["reason"] == "nope is not a channel"
        await socket.send_json({"type": "unsubscribe", "channels": ["nope", "full"]})
        assert [(await receive(socket))["type"] for _ in range(2)] == ["subscriptions", "error"]


async def test_a_lost_key_ends_the_balances(exchange: Exchange) -> None:
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe", "channels": ["balance"]} | exchange.socket_signature("alice"))
    await receive(socket, "balance")
    assert (await exchange.call("admin", "DELETE", "/admin/keys/alice-key"))[0] == 200
    await receive(socket, "error")
    assert (await receive(socket, "subscriptions"))["channels"] == []
    (session,) = exchange.gateway.feeds.sessions
    await until(lambda: not session.balance_sent)
