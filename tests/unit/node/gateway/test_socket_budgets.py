"""What one WebSocket client may have and request. The tests count work and do not measure time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import WSMsgType

from node.budget import Cost
from node.gateway import book, feeds, sessions, sockets
from node.gateway import limits as bounds
from node.gateway.errors import BadRequestError
from node.gateway.limits import FEW, SOCKETS_MAX, SOCKETS_PER_ADDRESS, SOCKETS_RESERVED, SocketLimits, TurnRefusedError, Turns
from node.gateway.requests import parse
from node.gateway.sessions import Subscriptions
from node.gateway.sockets import ENTRIES_MAX, NAMES_MAX, FeedRequest, expand
from tests.unit.node.gateway.harness import FULL, Exchange, receive, subscribe, trade
from tests.waiting import until


def message(**fields: object) -> FeedRequest:
    return parse(json.dumps({"type": "subscribe"} | fields).encode(), FeedRequest)


class TestExpanding:
    """Formerly one message of 58 KB, with the channel full 4,000 times and 5,000 names, stopped a gateway for 5 s of
    CPU.
    """

    @pytest.fixture
    def looked_at(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return the names of products that are looked at from now on."""
        found: list[str] = []

        def counted(text: str) -> str:
            found.append(text)
            return text

        monkeypatch.setattr(sockets, "product_text", counted)
        return found

    def test_the_work_is_bounded_before_any_is_done(self, looked_at: list[str]) -> None:
        names = [f"{number:x}" for number in range(5_000)]
        for fields in (
            {"product_ids": names, "channels": ["full"] * 4_000},
            {"product_ids": names[:10], "channels": ["full"] * (ENTRIES_MAX + 1)},
            {"product_ids": names[: NAMES_MAX + 1], "channels": ["full"]},
            {"channels": [{"name": "full", "product_ids": names[:600]}, {"name": "ticker", "product_ids": names[:600]}]},
            {"product_ids": ["X"], "from_sequence": dict.fromkeys(names, 1)},
            {"product_ids": ["X"], "resume": dict.fromkeys(names, 1)},
            {"channels": ["balance"], "account_ids": names},
        ):
            with pytest.raises(BadRequestError, match="at most"):
                expand(message(**fields), subscribes=True)
        assert looked_at == []

    def test_common_products_are_examined_once_and_pairs_have_a_bound(self, looked_at: list[str]) -> None:
        names = [f"{number:x}" for number in range(NAMES_MAX)]
        channels = ["full", "ticker", "level2", "heartbeat"]
        wanted = expand(message(product_ids=names, channels=channels), subscribes=True)
        assert len(looked_at) == NAMES_MAX
        assert wanted.pairs == sockets.PAIRS_MAX
        with pytest.raises(BadRequestError, match="pairs"):
            expand(message(product_ids=names, channels=[*channels, "matches"]), subscribes=True)

    async def test_the_attack_is_answered_and_the_connection_continues(self, exchange: Exchange) -> None:
        socket = await exchange.socket()
        names = [f"{number:x}" for number in range(3_000)]
        await socket.send_json({"type": "unsubscribe", "product_ids": names, "channels": ["full"] * 3_000})
        assert "at most" in (await receive(socket))["message"]
        await socket.send_json(FULL)
        assert (await receive(socket))["type"] == "subscriptions"


class TestMessages:
    @pytest.mark.parametrize("kind", [WSMsgType.PING, WSMsgType.PONG, WSMsgType.TEXT, WSMsgType.BINARY])
    async def test_each_frame_counts_control_frames_too(
        self, exchange: Exchange, kind: WSMsgType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Formerly 1.2 million pings in 10 s delayed another client's GET by 9 s."""
        monkeypatch.setattr("node.gateway.sockets.MESSAGES_BURST", 20.0)
        monkeypatch.setattr("node.gateway.sockets.MESSAGES_PER_SECOND", 0.001)
        socket = await exchange.client.ws_connect("/", autoping=False)
        for _ in range(400):
            await socket.send_frame(b"", kind)
        answered = 0
        async with asyncio.timeout(10):
            while (got := await socket.receive()).type is not WSMsgType.CLOSE:
                answered += got.type is WSMsgType.PONG
        assert got.data == 1008
        assert answered <= 20
        cut = 'quorumbook_websocket_cut_off_total{node="n1",reason="flood",worker="0"}'
        (line,) = (line for line in exchange.gateway.metrics.render().decode().splitlines() if line.startswith(cut))
        assert line.endswith(" 1.0"), "connections are counted, not messages"

    async def test_a_client_may_send_a_ping_for_each_message_that_it_was_sent(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """cbpro sends a ping before each read. Formerly a feed of more than 100 messages a second got it disconnected."""
        monkeypatch.setattr("node.gateway.sockets.MESSAGES_BURST", 5.0)
        monkeypatch.setattr("node.gateway.sockets.MESSAGES_PER_SECOND", 0.001)
        socket = await exchange.client.ws_connect("/", autoping=False)
        await socket.send_json({"type": "subscribe", "product_ids": ["BTC-USD"]})
        assert (await receive(socket))["type"] == "subscriptions"
        for price in range(100, 120):
            await exchange.order("alice", "buy", str(price), "0.1")
        arrived = 0
        async with asyncio.timeout(10):
            while arrived < 40:  # two events of each order
                await socket.ping(b"keepalive")
                while (got := await socket.receive()).type is WSMsgType.PONG:
                    continue
                assert got.type is WSMsgType.TEXT, f"{got} after {arrived} messages"
                arrived += 1
            await socket.send_json({"type": "unsubscribe"})
            while (got := await socket.receive()).type is WSMsgType.PONG:
                continue
            assert got.type is WSMsgType.TEXT, "the connection is there still"
            for _ in range(100):
                await socket.ping(b"a flood")
            while (got := await socket.receive()).type is not WSMsgType.CLOSE:
                continue
        assert got.data == 1008

    async def test_an_address_whose_connection_was_cut_off_for_a_flood_gets_no_other_for_a_while(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "UNITS_PER_SECOND", 0.01)
        monkeypatch.setattr("node.gateway.sockets.FLOOD", bounds.UNITS_BURST)
        exchange.gateway.socket_limits = SocketLimits(1_000.0)
        socket = await exchange.client.ws_connect("/", autoping=False)
        for _ in range(int(bounds.MESSAGES_BURST) + 50):
            await socket.send_frame(b"", WSMsgType.PING)
        async with asyncio.timeout(10):
            while (await socket.receive()).type is not WSMsgType.CLOSE:
                continue
        refused = await exchange.client.get("/ws", headers=UPGRADE)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")

    async def test_a_pong_repeats_the_data_of_its_ping(self, exchange: Exchange) -> None:
        socket = await exchange.client.ws_connect("/", autoping=False)
        await socket.ping(b"are you there")
        async with asyncio.timeout(10):
            got = await socket.receive()
        assert (got.type, bytes(got.data)) == (WSMsgType.PONG, b"are you there")

    async def test_connections_of_an_address_share_its_budget(self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounds, "UNITS_PER_SECOND", 0.01)
        monkeypatch.setattr(bounds, "UNITS_BURST", 3 * Cost.MALFORMED)
        exchange.gateway.socket_limits = SocketLimits(1.0)
        one, other = await exchange.socket(), await exchange.socket()
        refused = ""
        for _ in range(5):
            await one.send_str("{}")
            refused = (await receive(one))["message"]
        assert "rate limit exceeded" in refused
        await other.send_json(FULL)
        assert "rate limit exceeded" in (await receive(other))["message"], "the budget is that of the address"

    async def test_a_snapshot_costs_as_many_levels_as_it_has(self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Cost, "rows", staticmethod(lambda count: float(count)))
        monkeypatch.setattr(bounds, "UNITS_PER_SECOND", 0.01)
        monkeypatch.setattr(bounds, "UNITS_BURST", 20.0)
        for price in range(50, 62):
            await exchange.order("alice", "buy", str(price), "1")
        exchange.gateway.socket_limits = SocketLimits(1.0)
        socket = await exchange.socket()
        await socket.send_json(FULL | {"channels": ["level2"]})
        await receive(socket, "snapshot")
        await socket.send_json({"type": "unsubscribe", "channels": ["level2"]})
        await receive(socket, "subscriptions")
        await socket.send_json(FULL | {"channels": ["level2"]})
        assert "rate limit exceeded" in (await receive(socket, "error"))["message"]

    async def test_concurrent_subscribers_share_one_snapshot(self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []
        level2 = book.level2

        def counted(*given: Any) -> bytes:
            made.append(1)
            return level2(*given)

        monkeypatch.setattr(feeds, "level2", counted)
        await exchange.order("alice", "buy", "50", "1")
        for _ in range(10):
            socket = await subscribe(exchange, product_ids=["BTC-USD"], channels=["level2", "level2_batch"])
            await receive(socket, "snapshot")
        assert len(made) == 1


class TestLevel3:
    async def test_concurrent_readers_share_one_book_without_the_engine(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[int] = []
        level3 = book.level3

        def counted(*given: Any) -> book.LongText:
            made.append(1)
            return level3(*given)

        monkeypatch.setattr(feeds, "level3", counted)
        for price in range(50, 60):
            await exchange.order("alice", "buy", str(price), "1")
        await exchange.get("/products/BTC-USD/book")
        exchange.backend.queried.clear()
        answers = await asyncio.gather(*(exchange.get("/products/BTC-USD/book?level=3") for _ in range(30)))
        assert len(made) == 1
        assert all(answer == answers[0] for answer in answers)
        assert len(answers[0][1]["bids"]) == 10
        names = {type(query).__name__ for query in exchange.backend.queried}
        assert names <= {"StatusQuery", "ProductsQuery", "CurrenciesQuery"}

    async def test_an_address_pays_for_the_orders(self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
        spent: list[float] = []
        monkeypatch.setattr(exchange.gateway.limits.addresses, "spend", lambda _caller, cost: spent.append(cost))
        await exchange.order("alice", "buy", "50", "1")
        await exchange.get("/products/BTC-USD/book?level=3")
        assert spent == [Cost.rows(1)]

    async def test_a_linearizable_one_has_all_that_its_barrier_saw(self, exchange: Exchange) -> None:
        await exchange.get("/products/BTC-USD/book?level=3")
        await exchange.order("alice", "buy", "50", "1")
        _, found = await exchange.get("/products/BTC-USD/book?level=3&consistency=linearizable")
        assert [row[:2] for row in found["bids"]] == [["50", "1"]]


class TestConnections:
    def test_addresses_have_places_and_the_last_are_for_those_with_few(self) -> None:
        """Formerly 2,000 idle connections of one address shut out all others."""
        limits, taken = SocketLimits(1_000.0), 0
        hoarder = 0
        while taken < SOCKETS_MAX - SOCKETS_RESERVED:
            entered = sum(limits.enter(f"10.0.0.{hoarder}") for _ in range(SOCKETS_PER_ADDRESS + 50))
            assert entered <= SOCKETS_PER_ADDRESS
            taken, hoarder = taken + entered, hoarder + 1
        assert not limits.enter("10.0.0.0")
        assert sum(limits.enter("192.0.2.1") for _ in range(FEW + 5)) == FEW
        limits.leave("192.0.2.1")
        assert limits.enter("192.0.2.1")

    def test_an_ipv6_site_is_one_address_by_its_64_bits(self) -> None:
        limits = SocketLimits(1_000.0)
        assert sum(limits.enter(f"2001:db8::{number:x}") for number in range(SOCKETS_PER_ADDRESS + 5)) == SOCKETS_PER_ADDRESS

    def test_behind_a_proxy_that_limits_addresses_share_no_budget(self) -> None:
        limits = SocketLimits(0.0)
        assert sum(limits.enter("10.0.0.1") for _ in range(SOCKETS_MAX + 5)) == SOCKETS_MAX

    async def test_a_place_comes_back_with_the_end_of_its_connection(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "SOCKETS_PER_ADDRESS", 2)
        exchange.gateway.socket_limits = SocketLimits(1_000.0)
        first, _ = await exchange.socket(), await exchange.socket()
        status, answer = await exchange.get("/time")
        assert status == 200
        refused = await exchange.client.get("/ws", headers=UPGRADE)
        assert (refused.status, (await refused.json())["message"]) == (429, "Too many connections")
        await first.close()
        await until(lambda: exchange.gateway.socket_limits._places.taken == 1)
        assert answer
        await exchange.socket()


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class TestTurns:
    async def test_holders_are_served_in_turn(self) -> None:
        """Formerly twelve readers of one address that did not read delayed an honest resume by 43 s."""
        turns, served = Turns(1, 16), []

        async def want(holder: str) -> None:
            async with turns.turn(holder):
                served.append(holder)
                await asyncio.sleep(0)

        async with turns.turn("first"):
            tasks = [asyncio.create_task(want(holder)) for holder in ["crowd"] * 12 + ["honest", "other"]]
            await asyncio.sleep(0)
            assert turns.waited_for
        await asyncio.gather(*tasks)
        assert served[:3] == ["crowd", "honest", "other"]
        assert served.count("crowd") == 12
        assert not turns.waited_for

    async def test_a_caller_that_stops_waiting_leaves_its_turn_to_the_next(self) -> None:
        turns, order = Turns(1, 4), []

        async def want(name: str) -> None:
            async with turns.turn(name):
                order.append(name)

        async with turns.turn("first"):
            gone, stays = asyncio.create_task(want("gone")), asyncio.create_task(want("stays"))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        await stays
        async with asyncio.timeout(5), turns.turn("again"):
            assert order == ["stays"]

    async def test_a_place_given_to_a_leaving_reader_passes_to_the_next(self) -> None:
        turns = Turns(1, 4)
        async with turns.turn("first"):
            late = asyncio.create_task(turns.turn("late").__aenter__())
            await asyncio.sleep(0)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        async with asyncio.timeout(5), turns.turn("again"):
            pass

    async def test_the_number_of_waiting_requests_of_one_holder_is_bounded(self) -> None:
        turns = Turns(1, 2)
        async with turns.turn("first"):
            waiting = [asyncio.create_task(turns.turn("crowd").__aenter__()) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(TurnRefusedError):
                await turns.turn("crowd").__aenter__()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def reader_of(exchange: Exchange, ended: list[int], address: str = "::1") -> Subscriptions:
    gateway = exchange.gateway
    return Subscriptions(gateway.feeds, gateway.metrics, gateway.socket_limits, address, lambda code, _reason: ended.append(code))


class TestSlowReaders:
    async def test_one_that_is_a_little_behind_gets_the_events_as_it_reads(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A cascade of stop orders gives more events at once than may wait. No reader is disconnected because of one
        command.
        """
        monkeypatch.setattr(sessions, "BEHIND", 10)
        monkeypatch.setattr(sessions, "CATCH_UP_QUEUE", 5)
        feed = await exchange.gateway.feeds.feed(await exchange.gateway.catalogue.product("BTC-USD"))
        ended: list[int] = []
        reader = reader_of(exchange, ended)
        reader.subscribe({"full": [feed]}, {})
        first = feed.sequence + 1
        for _ in range(20):
            await trade(exchange)
        assert len(reader._queue) < 30, "the rest waits where it is kept once for all"
        seen: list[int] = []
        while not seen or seen[-1] < feed.sequence:
            async with asyncio.timeout(5):
                arrived = json.loads(await reader.next_message())
            if "sequence" in arrived:
                seen.append(arrived["sequence"])
        assert seen == list(range(first, feed.sequence + 1))
        await trade(exchange)
        assert reader.following["BTC-USD"].catching_up is None, "the reader has caught up again"
        assert ended == []

    async def test_one_that_takes_no_message_for_too_long_is_cut_off(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended: list[int] = []
        reader = reader_of(exchange, ended)
        reader.send(b"one")
        assert await reader.next_message() == b"one"
        reader.tick()
        assert ended == []
        monkeypatch.setattr(sessions, "WRITE_STALL", -1.0)
        reader.tick()
        assert ended == [sessions.SLOW]

    async def test_the_waiting_bytes_of_all_readers_are_bounded_and_the_slowest_are_cut_off(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounds, "WAITING_MAX", 1_000)
        monkeypatch.setattr(bounds, "WAITING_FAIR", 500)
        ended: dict[str, list[int]] = {"slow": [], "quick": []}
        slow, quick = reader_of(exchange, ended["slow"]), reader_of(exchange, ended["quick"])
        limits = exchange.gateway.socket_limits
        for _ in range(8):
            slow.send(b"x" * 100)
        for _ in range(3):
            quick.send(b"x" * 100)
        assert (ended["slow"], ended["quick"]) == ([], [])
        slow.send(b"x" * 100)
        assert (ended["slow"], ended["quick"]) == ([sessions.SLOW], [])
        assert limits.waiting == 300
        quick.end(1000, "")
        assert limits.waiting == 0

    async def test_a_resume_gives_its_source_back_when_its_reader_does_not_read(
        self, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Formerly four of them blocked all resuming for good."""
        monkeypatch.setattr(sessions, "CATCH_UP_QUEUE", 5)
        monkeypatch.setattr("node.gateway.feeds.EVENTS_KEPT", 1)
        for _ in range(10):
            await trade(exchange)
        feed = await exchange.gateway.feeds.feed(await exchange.gateway.catalogue.product("BTC-USD"))
        ended: list[int] = []
        stuck = [reader_of(exchange, ended, "192.0.2.66") for _ in range(8)]
        for reader in stuck:
            reader.subscribe({"full": [feed]}, {"BTC-USD": 0})
        honest = reader_of(exchange, ended)
        honest.subscribe({"full": [feed]}, {"BTC-USD": 0})
        seen: list[int] = []
        while not seen or seen[-1] < feed.sequence:
            async with asyncio.timeout(5):
                arrived = json.loads(await honest.next_message())
            if "sequence" in arrived:
                seen.append(arrived["sequence"])
        assert seen == list(range(1, feed.sequence + 1))
        assert ended == []
        for reader in [*stuck, honest]:
            reader.end(1000, "")
