"""Sessions of the native protocol: who is admitted, what is refused and how, and the bounds of what a client can make
the node keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.config.settings import COMMANDS_PER_SUBMIT_MAX, NativeConfig
from node.engine import connection_limits, native_server, session
from node.errors import ConnectionLost, RequestFailed
from node.keys.credentials import Credentials, sign
from node.native.connection import NativeConnection, hello
from node.native.framing import RESPONSE_MAX, FrameSplitter, pack
from node.native.protocol import (
    PROTOCOL_VERSION,
    AnyResponse,
    ApiKeyQuery,
    ApiKeysQuery,
    BalancesQuery,
    BookQuery,
    Control,
    ControlAction,
    Events,
    FailCode,
    Failed,
    Hello,
    LogQuery,
    OrdersQuery,
    ProductsQuery,
    Query,
    Results,
    StatusQuery,
    StreamQuery,
    Submit,
    Subscribe,
    Subscribed,
    TradesQuery,
    Welcome,
    frame,
    response_decoder,
)
from snapshots.levels.level import SUPPORTED
from statemachine.commands import NoteStream, PutApiKey, PutCurrency, Transfer, Withdraw
from statemachine.events import OrderReceived, Placed, Transferred
from statemachine.limits import OPERATOR
from statemachine.types import Permission
from tests.unit.node.fakes import ADMIN, SECRET, WORLD, FakeNode, buy, config_of, connected, running, sell
from tests.waiting import until


class RawClient:
    """A client that can send any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._splitter = FrameSplitter(RESPONSE_MAX)
        self._messages: list[AnyResponse] = []

    def send(self, *messages: msgspec.Struct) -> None:
        self.writer.write(b"".join(frame(message) for message in messages))

    def send_body(self, body: bytes) -> None:
        self.writer.write(len(body).to_bytes(4, "big") + body)

    async def receive(self) -> AnyResponse:
        async with asyncio.timeout(5):
            while not self._messages:
                data = await self.reader.read(1 << 16)
                if not data:
                    raise EOFError
                self._messages += [response_decoder.decode(body) for body in self._splitter.feed(data)]
        return self._messages.pop(0)

    async def ended(self) -> bool:
        """Return whether the node closes the connection without a further message."""
        with contextlib.suppress(ConnectionError, EOFError):
            return bool(await self.receive()) and False
        return True


@contextlib.asynccontextmanager
async def raw(node: FakeNode, *, greet: bool = True) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_unix_connection(str(node.config.engine_socket))
    client = RawClient(reader, writer)
    try:
        if greet:
            client.send(Hello(PROTOCOL_VERSION, "test"))
            assert isinstance(await client.receive(), Welcome)
        yield client
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def trader(node: FakeNode, permissions: int, *, account: str = "alice", key_id: str = "key-1") -> Credentials:
    """Make a market, and give an account a key."""
    async with connected(node) as gateway:
        await gateway.submit([*WORLD, PutApiKey(OPERATOR, f"put-{key_id}", key_id, account, SECRET, "pass", permissions)])
    return Credentials(key_id, SECRET, "pass")


ALL = int(Permission.VIEW | Permission.TRADE | Permission.TRANSFER)


class TestGreeting:
    async def test_the_welcome_names_the_node(self, node: FakeNode) -> None:
        async with connected(node) as connection:
            levels = [level.abi for level in SUPPORTED]
            assert connection.welcome == Welcome(PROTOCOL_VERSION, "n1", "test", "test", "abi", levels)

    async def test_the_socket_is_this_users_alone(self, node: FakeNode) -> None:
        assert node.config.engine_socket.stat().st_mode & 0o777 == 0o600

    async def test_a_deep_directory_is_reached_all_the_same(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * 100) / ("e" * 100)
        async with running(config_of(deep)) as node, connected(node) as connection:
            assert connection.welcome.node_id == "n1"

    async def test_something_else_than_a_greeting_ends_the_session(self, node: FakeNode) -> None:
        async with raw(node, greet=False) as client:
            client.send(Query(1, StatusQuery()), Hello(PROTOCOL_VERSION, "late"))
            assert await client.receive() == Failed(0, FailCode.BAD_REQUEST, "the first message must be Hello")
            assert await client.ended()

    async def test_another_version_is_refused_in_words(self, node: FakeNode) -> None:
        async with raw(node, greet=False) as client:
            client.send(Hello(99, "future"))
            assert await client.receive() == Failed(0, FailCode.BAD_REQUEST, "version: this node speaks 1, the client 99")
            assert await client.ended()

    async def test_a_second_greeting_is_refused_and_the_session_continues(self, node: FakeNode) -> None:
        async with raw(node) as client:
            client.send(Hello(PROTOCOL_VERSION, "again"), Query(5, ProductsQuery()))
            assert await client.receive() == Failed(0, FailCode.BAD_REQUEST, "Hello is sent once")
            answer = await client.receive()
            assert not isinstance(answer, Failed)

    async def test_a_long_greeting_is_not_even_read(self, node: FakeNode) -> None:
        async with raw(node, greet=False) as client:
            client.send(Hello(PROTOCOL_VERSION, "x" * 5_000))
            answer = await client.receive()
            assert isinstance(answer, Failed)
            assert "1 to 4096 are allowed" in answer.message
            assert await client.ended()

    async def test_a_silent_client_is_disconnected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "HELLO_TIMEOUT", 0.05)
        monkeypatch.setattr(native_server, "LOOK_SECONDS", 0.02)
        async with running(config_of(tmp_path)) as node, raw(node, greet=False) as client:
            assert await client.ended()
            assert node.service.refused["silent"] == 1

    async def test_too_many_sessions_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection_limits, "LOCAL_MAX", 1)
        async with running(config_of(tmp_path)) as node, connected(node):
            with pytest.raises(ConnectionLost):
                await NativeConnection.open(node.address)
            assert node.server.sessions == 1
            assert node.service.refused["too_many"] == 1

    async def test_a_stopping_node_tells_its_clients_that_it_stops(self, node: FakeNode) -> None:
        async with connected(node) as connection:
            await node.server.stop("back soon")
            await asyncio.wait_for(connection.closed.wait(), 5)
            assert connection.close_reason == "STOPPING: back soon"
        with pytest.raises(ConnectionLost, match="no connection to unix:"):
            await NativeConnection.open(node.address)

    async def test_no_clock_is_asked_for_a_gateway(self, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor is it for another node's gateway, which shows a certificate. Between nodes only the keys of clients carry
        times.
        """
        monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=time.monotonic))
        async with connected(node) as connection:
            assert connection.welcome.node_id == "n1"


class TestSignedGreetings:
    """On the Unix socket a greeting with a key id is checked like one over TLS."""

    async def test_the_operators_key_is_accepted(self, node: FakeNode) -> None:
        async with connected(node, Credentials(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase)) as operator:
            assert len(await operator.submit(WORLD)) == len(WORLD)
            assert await operator.control(ControlAction.SNAPSHOT)
        assert node.raft.snapshots_wanted == 1

    async def test_a_replicated_key_is_accepted(self, node: FakeNode) -> None:
        async with connected(node, await trader(node, ALL)) as alice:
            (outcome,) = await alice.submit([buy(1)])
            assert isinstance(outcome, Placed)
            assert [order.client_oid for order in await alice.query(OrdersQuery("alice"))] == ["1"]

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"key_id": "nobody"}, "signature: invalid signature"),
            ({"passphrase": "wrong"}, "passphrase: invalid passphrase"),
            ({"signature": "d3Jvbmc="}, "signature: invalid signature"),
            ({"signature": "\udc80".encode("utf-8", "replace").decode()}, "signature: invalid signature"),
            ({"signature": "ünsigned"}, "signature: invalid signature"),
            ({"timestamp": "yesterday"}, "timestamp: expected Unix seconds within 30 s"),
            ({"timestamp": "nan"}, "timestamp: expected Unix seconds within 30 s"),
            ({"timestamp": "1e400"}, "timestamp: expected Unix seconds within 30 s"),
        ],
    )
    async def test_a_refused_greeting_names_the_fault(self, node: FakeNode, change: dict[str, str], text: str) -> None:
        right = hello(Credentials(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase), "test", time.time())
        async with raw(node, greet=False) as client:
            client.send(msgspec.structs.replace(right, **change))
            answer = await client.receive()
            assert isinstance(answer, Failed)
            assert answer.code is FailCode.UNAUTHORIZED
            assert answer.message.startswith(text)
            assert await client.ended()
        assert node.service.refused["unauthorized"] == 1

    @pytest.mark.parametrize("age", [-31, 31])
    async def test_an_old_or_early_timestamp_is_refused(self, node: FakeNode, age: float) -> None:
        stamp = f"{time.time() - age:.3f}"
        signed = Hello(PROTOCOL_VERSION, "t", ADMIN.key_id, ADMIN.passphrase, stamp, sign(ADMIN.secret, stamp))
        async with raw(node, greet=False) as client:
            client.send(signed)
            answer = await client.receive()
            assert isinstance(answer, Failed)
            assert answer.message.startswith("timestamp")


class TestPermissions:
    async def test_a_trader_acts_for_its_own_account_only(self, node: FakeNode) -> None:
        async with connected(node, await trader(node, ALL)) as alice:
            with pytest.raises(RequestFailed, match=r"commands\[1\]\.account_id: this key acts for 'alice' only") as caught:
                await alice.submit([buy(1), sell(2)])
            assert caught.value.code is FailCode.FORBIDDEN
            assert await alice.query(OrdersQuery("alice")) == [], "nothing of it was applied"
            with pytest.raises(RequestFailed, match=r"query\.account_id"):
                await alice.query(BalancesQuery("bob"))
            with pytest.raises(RequestFailed, match="acts for 'alice' only"):
                await alice.submit([Transfer("bob", "t1", "alice", "USD", 1)])
            (sent,) = await alice.submit([Transfer("alice", "t1", "bob", "USD", 1)])
            assert isinstance(sent, Transferred)

    async def test_each_kind_of_command_needs_its_permission(self, node: FakeNode) -> None:
        viewer = await trader(node, Permission.VIEW)
        async with connected(node, viewer) as alice:
            with pytest.raises(RequestFailed, match="PlaceOrder needs the permission TRADE"):
                await alice.submit([buy(1)])
            with pytest.raises(RequestFailed, match="Withdraw needs the permission TRANSFER"):
                await alice.submit([Withdraw("alice", "w1", "USD", 1)])
            with pytest.raises(RequestFailed, match="Transfer needs the permission TRANSFER"):
                await alice.submit([Transfer("alice", "t1", "bob", "USD", 1)])
            with pytest.raises(RequestFailed, match="PutCurrency needs the permission MARKET"):
                await alice.submit([PutCurrency(OPERATOR, "eur", "EUR", 2)])
            with pytest.raises(RequestFailed, match="for gateways only"):
                await alice.query(ApiKeyQuery("key-1"))
            with pytest.raises(RequestFailed, match="control needs the permission CLUSTER"):
                await alice.control(ControlAction.TRANSFER_LEADERSHIP)
            assert await alice.query(BalancesQuery("alice"))

    async def test_a_trader_without_view_cannot_read_its_account(self, node: FakeNode) -> None:
        async with connected(node, await trader(node, Permission.TRADE)) as alice:
            with pytest.raises(RequestFailed, match="BalancesQuery needs the permission VIEW"):
                await alice.query(BalancesQuery("alice"))
            assert (await alice.query(BookQuery("BTC-USD", 2))).bids == []

    async def test_a_key_that_is_changed_counts_at_once(self, node: FakeNode) -> None:
        key = await trader(node, ALL)
        async with connected(node, key) as alice, connected(node) as gateway:
            await alice.submit([buy(1)])
            await gateway.submit([PutApiKey(OPERATOR, "less", "key-1", "alice", SECRET, "pass", Permission.VIEW)])
            with pytest.raises(RequestFailed, match="TRADE"):
                await alice.submit([buy(2)])
            await gateway.submit([PutApiKey(OPERATOR, "new", "key-1", "alice", "bmV3", "pass", ALL)])
            await until(alice.closed.is_set)
            assert "the API key was revoked or replaced" in alice.close_reason

    async def test_an_admin_key_is_an_operators(self, node: FakeNode) -> None:
        async with connected(node, await trader(node, Permission.ADMIN, key_id="boss")) as boss:
            await boss.submit([sell(1), PutCurrency(OPERATOR, "eur", "EUR", 2)])
            with pytest.raises(RequestFailed, match="for gateways only"):
                await boss.query(ApiKeyQuery("boss"))
            (row,) = await boss.query(ApiKeysQuery())
            assert (row.key_id, row.owner_id, row.secret, row.passphrase) == ("boss", "alice", "", "")
            with pytest.raises(RequestFailed, match="the log is read by nodes only"):
                await boss.query(LogQuery(1))
        async with connected(node) as another:
            with pytest.raises(RequestFailed, match="no longer has that log entry"):
                await another.query(LogQuery(1))

    async def test_the_public_feed_and_trades_have_no_accounts(self, node: FakeNode) -> None:
        received: list[Events] = []
        async with connected(node, await trader(node, ALL)) as alice, connected(node) as gateway:
            await alice.subscribe("BTC-USD", 1, received.append)
            await gateway.submit([sell(1), buy(2)])
            await until(lambda: sum(len(message.events) for message in received) >= 6)
            assert any(isinstance(event, OrderReceived) for message in received for event in message.events)
            assert b"bob" not in msgspec.json.encode(received)
            (trade,) = await alice.query(TradesQuery("BTC-USD"))
            assert (trade.maker_account_id, trade.taker_account_id) == ("", "")
            (trade,) = await gateway.query(TradesQuery("BTC-USD"))
            assert (trade.maker_account_id, trade.taker_account_id) == ("bob", "alice")

    async def test_report_streams_are_for_gateways(self, node: FakeNode) -> None:
        received: list[Events] = []
        note = NoteStream("alice", "note-1", "alice-key/o", "n1", "35=A", open=True)
        async with connected(node, await trader(node, ALL)) as alice, connected(node) as gateway:
            with pytest.raises(RequestFailed, match="NoteStream needs the permission ADMIN"):
                await alice.submit([note])
            await gateway.submit([note, sell(1), buy(2)])
            with pytest.raises(RequestFailed, match="does not exist"):
                await alice.subscribe("alice-key/o", 1, received.append)
            with pytest.raises(RequestFailed, match="for gateways only"):
                await alice.query(StreamQuery("alice-key/o"))
            await gateway.subscribe("alice-key/o", 1, received.append)
            await until(lambda: sum(len(message.events) for message in received) >= 3)
            events = [event for message in received for event in message.events]
            assert [event.product_sequence for event in events] == list(range(1, len(events) + 1))
            assert (await gateway.query(StreamQuery("alice-key/o"))).sequence == len(events)


class TestMalformed:
    async def test_a_bad_field_is_named_and_the_session_continues(self, node: FakeNode) -> None:
        async with raw(node) as client:
            client.send_body(msgspec.msgpack.encode([2, 7, [[7, "alice", "c:1", "BTC-USD", 1, 1, "cheap", 5]]]))
            client.send(Query(8, ProductsQuery()))
            assert await client.receive() == Failed(7, FailCode.BAD_REQUEST, "commands[0].price: Expected `int`, got `str`")
            assert getattr(await client.receive(), "request_id", 0) == 8
        assert node.service.refused["malformed"] == 1

    async def test_a_frame_that_cannot_be_ends_the_session(self, node: FakeNode) -> None:
        async with raw(node) as client:
            client.writer.write(b"\xff\xff\xff\xff" + b"x" * 100)
            answer = await client.receive()
            assert isinstance(answer, Failed)
            assert answer.message.startswith("a frame of 4294967295 bytes was announced")
            assert await client.ended()
        assert node.service.refused["framing"] == 1

    async def test_too_many_commands_are_refused(self, node: FakeNode) -> None:
        async with connected(node) as connection:
            with pytest.raises(RequestFailed, match="commands: Expected `array` of length <= 1000"):
                await connection.submit([buy(number) for number in range(COMMANDS_PER_SUBMIT_MAX + 1)])

    async def test_too_long_commands_are_refused(self, node: FakeNode) -> None:
        async with connected(node) as connection:
            huge = PutCurrency(OPERATOR, "x", "E" * 500_000, 2)
            with pytest.raises(RequestFailed, match="commands: more than 458752 bytes") as caught:
                await connection.submit([huge])
            assert caught.value.code is FailCode.BAD_REQUEST

    async def test_no_commands_have_no_results(self, node: FakeNode) -> None:
        async with connected(node) as connection:
            assert await connection.submit([]) == []

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        pieces=st.lists(
            st.one_of(
                st.binary(min_size=1, max_size=60).map(lambda body: len(body).to_bytes(4, "big") + body),
                st.lists(st.integers() | st.text(max_size=4), max_size=5).map(lambda row: row),
                st.binary(max_size=40),
            ),
            max_size=8,
        )
    )
    def test_no_garbage_harms_the_node(self, tmp_path_factory: pytest.TempPathFactory, pieces: list[Any]) -> None:
        async def play() -> None:
            async with running(config_of(tmp_path_factory.mktemp("n"))) as node:
                async with raw(node) as client:
                    for piece in pieces:
                        client.writer.write(piece if isinstance(piece, bytes) else _framed(piece))
                    client.writer.write_eof()
                    with contextlib.suppress(EOFError, ConnectionError):
                        while True:
                            assert isinstance(await client.receive(), Failed)
                async with connected(node) as connection:
                    assert (await connection.query(StatusQuery())).sequence == 0

        asyncio.run(play())


def _framed(row: list[Any]) -> bytes:
    small = [value % 2**60 if isinstance(value, int) else value for value in row]
    body = msgspec.msgpack.encode([99, *small])
    return len(body).to_bytes(4, "big") + body


class TestBounds:
    async def test_a_client_that_does_not_read_is_not_read_from_and_then_cut_off(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session, "STALL_MAX", 0.3)
        monkeypatch.setattr(session, "WRITE_HIGH", 50_000)
        async with running(config_of(tmp_path)) as node:
            async with connected(node) as gateway:
                await gateway.submit([*WORLD, *(buy(number, price=number + 1) for number in range(200))])
            async with raw(node) as client:
                for number in range(20_000):
                    client.send(Query(number, BookQuery("BTC-USD", 3)))
                await until(lambda: node.service.refused["stalled"] == 1, seconds=20)
                await until(lambda: node.server.sessions == 0)

    async def test_a_client_that_reads_late_gets_everything(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "WRITE_HIGH", 10_000)
        async with running(config_of(tmp_path)) as node:
            async with connected(node) as gateway:
                await gateway.submit([*WORLD, *(buy(number, price=number + 1) for number in range(200))])
            async with raw(node) as client:
                for number in range(1, 1_001):
                    client.send(Query(number, BookQuery("BTC-USD", 3)))
                await client.writer.drain()
                for number in range(1, 1_001):
                    assert getattr(await client.receive(), "request_id", 0) == number

    async def test_a_slow_feed_reader_is_served_from_the_ring(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "WRITE_HIGH", 10_000)
        config = config_of(tmp_path, native=NativeConfig("127.0.0.1:0", account_rate=0))
        async with running(config) as node, connected(node) as gateway, raw(node) as client:
            await gateway.submit(WORLD)
            client.send(Subscribe(1, "BTC-USD", 1))
            assert await client.receive() == Subscribed(1, "BTC-USD", 1)
            for chunk in range(20):
                await gateway.submit([buy(1_000 * chunk + number) for number in range(500)])
            sequences: list[int] = []
            while len(sequences) < 20_001:
                message = await client.receive()
                assert isinstance(message, Events)
                sequences += [event.product_sequence for event in message.events]
            assert sequences == list(range(1, 20_002))

    async def test_a_feed_reader_that_falls_out_of_the_ring_gets_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session, "WRITE_HIGH", 10_000)
        config = config_of(tmp_path, native=NativeConfig("127.0.0.1:0", events_kept=100, account_rate=0))
        async with running(config) as node, connected(node) as gateway, raw(node) as client:
            await gateway.submit(WORLD)
            client.send(Subscribe(9, "BTC-USD", 1))
            assert isinstance(await client.receive(), Subscribed)
            for chunk in range(20):
                await gateway.submit([buy(1_000 * chunk + number) for number in range(500)])
            sequences: list[int] = []
            while isinstance(message := await client.receive(), Events):
                sequences += [event.product_sequence for event in message.events]
            assert isinstance(message, Failed)
            assert (message.request_id, message.code) == (9, FailCode.TOO_OLD)
            assert sequences == list(range(1, len(sequences) + 1))

    async def test_linearizable_reads_of_one_session_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "READS_MAX_OPERATOR", 3)
        async with running(config_of(tmp_path)) as node, raw(node) as client:
            node.raft.hold = True
            for number in range(1, 5):
                client.send(Query(number, ProductsQuery(), linearizable=True))
            refused = await client.receive()
            assert isinstance(refused, Failed)
            assert (refused.request_id, refused.code) == (4, FailCode.OVERLOADED)
            node.raft.hold = False
            node.raft.tick()
            assert [getattr(await client.receive(), "request_id", 0) for _ in range(3)] == [1, 2, 3]

    async def test_a_session_that_leaves_takes_its_subscriptions_with_it(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit(WORLD)
            async with raw(node) as client:
                client.send(Subscribe(1, "BTC-USD", 0), Submit(2, [buy(1)]))
                assert isinstance(await client.receive(), Subscribed)
            await until(lambda: node.server.sessions == 1)
            await gateway.submit([buy(2)])
            assert node.feed._channels["BTC-USD"].live == {}

    async def test_answers_for_a_client_that_is_gone_are_dropped(self, node: FakeNode) -> None:
        async with raw(node) as client:
            node.raft.hold = True
            client.send(Submit(1, list(WORLD)), Control(2, ControlAction.SNAPSHOT))
            assert getattr(await client.receive(), "request_id", 0) == 2
        await until(lambda: node.server.sessions == 0)
        node.raft.hold = False
        node.raft.tick()
        assert node.machine.engine.sequence == len(WORLD)


async def test_results_come_in_the_order_of_the_commands(node: FakeNode) -> None:
    async with raw(node) as client:
        client.send(Submit(1, list(WORLD)), *(Submit(10 + number, [buy(number), buy(100 + number)]) for number in range(20)))
        first = await client.receive()
        assert isinstance(first, Results)
        for number in range(20):
            results = await client.receive()
            assert isinstance(results, Results)
            assert results.request_id == 10 + number
            oids = [outcome.order.client_oid for outcome in results.outcomes if isinstance(outcome, Placed)]
            assert oids == [str(number), str(100 + number)]


def test_pack_refuses_a_frame_that_clients_would_refuse() -> None:
    with pytest.raises(Exception, match="passes the limit"):
        pack(Failed(1, FailCode.BAD_REQUEST, "x" * (RESPONSE_MAX + 1)))
