"""The TLS port: handshakes run outside the event loop's thread, places are kept apart, and a connection that takes too
long is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from cluster import tls
from node.cluster_directory import ClusterDirectory
from node.config.settings import NativeConfig
from node.deployment.setup import initialise
from node.deployment.statuses import ask_all, certified
from node.engine import connection_limits, native_server, session
from node.errors import ConnectionLost, RequestFailed
from node.keys.credentials import Credentials
from node.native.connection import NativeConnection
from node.native.protocol import BookQuery, FailCode, Hello, NodeStatus, ProductsQuery, StatusQuery, frame
from node.tls import pki
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR
from statemachine.types import Permission
from tests.unit.node.fakes import ADMIN, SECRET, WORLD, FakeNode, buy, config_of
from tests.waiting import until

ALL = int(Permission.VIEW | Permission.TRADE | Permission.TRANSFER)
BOSS = Credentials(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase)
ALICE = Credentials("key-1", SECRET, "pass")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> ClusterDirectory:
    """Make the certificates of n1, n2 and n3."""
    directory = tmp_path_factory.mktemp("pki") / "c"
    initialise(directory, 3)
    return ClusterDirectory(directory)


class Port:
    """A node that listens with TLS and has alice's key."""

    def __init__(self, node: FakeNode, number: int, cluster: ClusterDirectory) -> None:
        self.node = node
        self.address = f"127.0.0.1:{number}"
        self.number = number
        self.cluster = cluster

    async def open(self, credentials: Credentials | None, *, certificate: bool = False) -> NativeConnection:
        context = pki.client_context(self.cluster.configs["n2"], with_cert=certificate)
        return await NativeConnection.open(self.address, tls=context, credentials=credentials, timeout=5.0)

    async def plain(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.number)


Make = Callable[..., contextlib.AbstractAsyncContextManager[Port]]


@pytest.fixture
def port(tmp_path: Path, cluster: ClusterDirectory) -> Make:
    @contextlib.asynccontextmanager
    async def make(native: NativeConfig | None = None, *, member: bool = True) -> AsyncIterator[Port]:
        config = config_of(tmp_path, native=native)
        if not member:
            nodes = [msgspec.structs.replace(each, raft="192.0.2.1:7", native="192.0.2.1:8") for each in config.nodes]
            config = msgspec.structs.replace(config, nodes=nodes)
        node = FakeNode(config)
        node.server.peer_node_id = pki.peer_node_id
        await node.start()
        number = await node.server.listen_tls("127.0.0.1:0", pki.server_context(cluster.configs["n1"], require_client_cert=False))
        try:
            gateway = await NativeConnection.open(node.address)
            await gateway.submit([*WORLD, PutApiKey(OPERATOR, "put", "key-1", "alice", SECRET, "pass", ALL)])
            await gateway.close()
            yield Port(node, number, cluster)
        finally:
            await node.stop()

    return make


async def closed(reader: asyncio.StreamReader) -> bool:
    """Return whether the node closes a connection."""
    try:
        async with asyncio.timeout(5):
            while await reader.read(1 << 16):
                continue
    except ConnectionError:
        pass
    return True


class TestHandshakes:
    async def test_handshakes_run_in_other_threads(self, port: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        threads: list[int] = []
        real = tls._handshake

        def handshake(channel: ssl.SSLObject) -> bool:
            threads.append(threading.get_ident())
            return real(channel)

        monkeypatch.setattr(tls, "_handshake", handshake)
        async with port() as one:
            connection = await one.open(ALICE)
            await connection.close()
        assert len(threads) >= 2
        assert threading.get_ident() not in threads

    async def test_a_failed_handshake_is_counted(self, port: Make) -> None:
        async with port() as one:
            reader, writer = await one.plain()
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await closed(reader)
            assert one.node.service.refused["handshake"] == 1
            writer.close()

    async def test_a_greeting_in_the_last_packet_of_the_handshake_is_not_lost(self, port: Make) -> None:
        """A client may greet in the same packet as the end of its handshake."""
        async with port() as one:
            for _ in range(10):
                connection = await one.open(ALICE)
                assert (await connection.query(ProductsQuery()))[0].product_id == "BTC-USD"
                await connection.close()

    async def test_silence_costs_no_memory_for_tls_and_is_cut_off(self, port: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "HELLO_TIMEOUT", 0.2)
        monkeypatch.setattr(native_server, "LOOK_SECONDS", 0.05)
        async with port() as one:
            reader, writer = await one.plain()
            await until(lambda: len(one.node.server.arrived) == 1)
            (door,) = one.node.server.arrived
            assert not door.begun
            assert await closed(reader)
            writer.close()
            await until(lambda: not one.node.server.arrived)
            assert one.node.service.refused["silent"] == 1
            assert one.node.server.limits.waiting == 0

    async def test_half_a_handshake_is_cut_off(self, port: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "HELLO_TIMEOUT", 0.2)
        monkeypatch.setattr(native_server, "LOOK_SECONDS", 0.05)
        async with port() as one:
            reader, writer = await one.plain()
            writer.write(b"\x16\x03\x01\x02\x00\x01")
            assert await closed(reader)
            writer.close()

    async def test_an_address_has_a_rate(self, port: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection_limits, "HANDSHAKES_BURST", 3.0)
        monkeypatch.setattr(connection_limits, "HANDSHAKES_PER_SECOND", 0.001)
        async with port(member=False) as one:
            for _ in range(3):
                await (await one.open(ALICE)).close()
            with pytest.raises(ConnectionLost):
                await one.open(ALICE)
            assert one.node.service.refused["too_many"] == 1
        async with port(member=True) as one:
            for _ in range(6):
                await (await one.open(ALICE)).close()


class TestSession:
    async def test_a_long_answer_comes_whole(self, port: Make) -> None:
        async with port() as one:
            boss = await one.open(BOSS)
            for start in range(0, 10_000, 500):
                await boss.submit([buy(number, price=number + 1) for number in range(start, start + 500)])
            view = await boss.query(BookQuery("BTC-USD", 3))
            assert len(view.bid_orders) == 10_000
            await boss.close()

    async def test_a_node_is_known_by_its_certificate(self, port: Make) -> None:
        async with port() as one:
            node = await one.open(None, certificate=True)
            assert (await node.query(StatusQuery())).state_hash
            await node.close()
            with pytest.raises(RequestFailed, match="UNAUTHORIZED"):
                await one.open(None)

    async def test_a_session_that_ends_gets_the_reason(self, port: Make) -> None:
        async with port() as one:
            connection = await one.open(ALICE)
            await one.node.server.stop("back soon")
            await asyncio.wait_for(connection.closed.wait(), 5)
            assert connection.close_reason == "STOPPING: back soon"

    async def test_a_trader_sees_little_of_the_status(self, port: Make) -> None:
        async with port() as one:
            alice, boss = await one.open(ALICE), await one.open(BOSS)
            seen, full = await alice.query(StatusQuery()), await boss.query(StatusQuery())
            assert (seen.state_hash, seen.counters, [member.raft for member in seen.members]) == ("", {}, ["", "", ""])
            assert (seen.leader, seen.ready, seen.role) == (full.leader, full.ready, full.role)
            assert [member.native for member in seen.members] == [member.native for member in full.members]
            assert full.state_hash
            assert isinstance(seen, NodeStatus)
            await alice.close()
            await boss.close()


class TestPlaces:
    async def test_the_number_of_sessions_of_a_key_is_bounded_apart_from_others(
        self, port: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_limits, "SESSIONS_PER_KEY", 2)
        monkeypatch.setattr(connection_limits, "CLIENTS_MAX", 2)
        monkeypatch.setattr(connection_limits, "SESSIONS_PER_ADDRESS", 2)
        async with port() as one:
            held = [await one.open(ALICE) for _ in range(2)]
            with pytest.raises(RequestFailed, match="2 sessions of this API key are open already") as caught:
                await one.open(ALICE)
            assert caught.value.code is FailCode.OVERLOADED
            others = [await one.open(BOSS), await one.open(None, certificate=True), await NativeConnection.open(one.node.address)]
            await held[0].close()
            await until(lambda: len(one.node.server.arrived) == 3)
            held.append(await one.open(ALICE))
            for connection in [*held, *others]:
                await connection.close()

    async def test_the_number_of_sessions_of_an_address_is_bounded(self, port: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection_limits, "SESSIONS_PER_ADDRESS", 1)
        async with port() as one:
            first = await one.open(ALICE)
            with pytest.raises(RequestFailed, match="1 sessions from this address are open already"):
                await one.open(ALICE)
            await first.close()
            await until(lambda: not one.node.server.arrived)
            await (await one.open(ALICE)).close()

    @pytest.mark.parametrize("member", [True, False])
    async def test_silent_connections_take_no_place_from_active_ones(
        self, port: Make, monkeypatch: pytest.MonkeyPatch, member: bool
    ) -> None:
        monkeypatch.setattr(connection_limits, "WAITING_MAX", 10)
        monkeypatch.setattr(connection_limits, "WAITING_PER_ADDRESS", 10)
        monkeypatch.setattr(connection_limits, "HANDSHAKES_BURST", 1_000.0)
        async with port(member=member) as one:
            silent = [await one.plain() for _ in range(60)]
            assert one.node.server.limits.waiting <= 10
            connection = await one.open(ALICE)
            assert await connection.query(ProductsQuery())
            await connection.close()
            await until(lambda: len(one.node.server.arrived) <= 10)
            for _, writer in silent:
                writer.close()


class TestBudget:
    async def test_a_key_that_asks_too_much_waits(self, port: Make) -> None:
        async with port(NativeConfig("127.0.0.1:0", key_rate=50)) as one:
            alice, another, boss = await one.open(ALICE), await one.open(ALICE), await one.open(BOSS)
            begun = time.monotonic()
            asked = [asyncio.ensure_future(each.query(ProductsQuery())) for each in (alice, another) for _ in range(75)]
            assert await boss.query(ProductsQuery()), "others go on"
            await asyncio.gather(*asked)
            seconds = time.monotonic() - begun
            assert 50 + 50 * seconds + 2 >= 150, "the burst, and the rate from then on, for both sessions together"
            assert one.node.service.refused["rate_limited"] == 0
            for connection in (alice, another, boss):
                await connection.close()

    async def test_a_request_that_would_wait_for_long_is_refused_unread(self, port: Make) -> None:
        async with port(NativeConfig("127.0.0.1:0", key_rate=1)) as one:
            alice = await one.open(ALICE)
            one.node.server.key_rates.spend("key-1", 100)
            with pytest.raises(RequestFailed, match="has used up its share; send it again in") as caught:
                await alice.query(ProductsQuery())
            assert caught.value.code is FailCode.RATE_LIMITED
            assert one.node.service.refused["rate_limited"] == 1
            await alice.close()

    async def test_malformed_messages_end_the_session_and_are_paid_for(self, port: Make) -> None:
        async with port() as one:
            alice = await one.open(ALICE)
            for _ in range(session.MALFORMED_BURST + 1):
                alice._wire.transport.write(frame(Hello(1, "x"))[:4] + bytes(len(frame(Hello(1, "x"))) - 4))  # type: ignore[union-attr]
            await asyncio.wait_for(alice.closed.wait(), 5)
            assert alice.close_reason
            assert one.node.service.refused["malformed"] == session.MALFORMED_BURST + 1
            assert one.node.server.key_rates.wait("key-1", 1_000) > 0

    async def test_one_that_asks_nothing_and_subscribes_to_nothing_is_closed(
        self, port: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session, "IDLE_MAX", 0.3)
        monkeypatch.setattr(native_server, "LOOK_SECONDS", 0.05)
        async with port() as one:
            idle, reader, node = await one.open(ALICE), await one.open(ALICE), await one.open(None, certificate=True)
            await reader.subscribe("BTC-USD", 0, lambda _events: None)
            await asyncio.wait_for(idle.closed.wait(), 5)
            assert "no request for 0.3 s" in idle.close_reason
            assert not reader.closed.is_set()
            assert not node.closed.is_set()
            await reader.close()
            await node.close()

    async def test_half_a_frame_is_not_kept_for_long(self, port: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "FRAME_SECONDS", 0.2)
        monkeypatch.setattr(native_server, "LOOK_SECONDS", 0.05)
        async with port() as one:
            alice = await one.open(ALICE)
            alice._wire.transport.write(b"\x00\x00\x10\x00abc")  # type: ignore[union-attr]
            await asyncio.wait_for(alice.closed.wait(), 5)
            assert one.node.service.refused["slow"] == 1

    async def test_the_session_with_the_most_unread_bytes_is_cut_when_all_hold_too_much(
        self, port: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(native_server, "HELD_MAX", 60_000)
        monkeypatch.setattr(native_server, "LOOK_SECONDS", 0.05)
        async with port() as one:
            greedy, modest = await one.open(ALICE), await one.open(ALICE)
            greedy._wire.transport.write(b"\x00\x01\xff\xff" + b"x" * 70_000)  # type: ignore[union-attr]
            modest._wire.transport.write(b"\x00\x01\xff\xff" + b"x" * 1_000)  # type: ignore[union-attr]
            await asyncio.wait_for(greedy.closed.wait(), 5)
            assert not modest.closed.is_set()
            modest.abort("done")


async def test_the_certificate_of_a_removed_node_gives_no_access(port: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly a session that was open at the removal stayed, with all rights of the operator."""
    monkeypatch.setattr(native_server, "LOOK_SECONDS", 0.05)
    async with port() as one:
        stolen = await one.open(None, certificate=True)
        reader = await one.open(ALICE)
        membership = one.node.raft.membership
        one.node.raft.membership = msgspec.structs.replace(membership, members=membership.others("n2"), removed=("n2",))
        await asyncio.wait_for(stolen.closed.wait(), 5)
        with pytest.raises(RequestFailed, match="UNAUTHORIZED"):
            await one.open(None, certificate=True)
        assert not reader.closed.is_set()
        await reader.close()


async def test_a_nodes_machine_is_answered_when_the_operators_key_is_off(port: Make) -> None:
    """Starting, stopping and watching the nodes of a machine must not depend on a key that people may switch off."""
    async with port() as one:
        trusting = pki.client_context(one.cluster.configs["n2"], with_cert=False)
        refused = Credentials(ADMIN.key_id, SECRET, "switched off")
        with pytest.raises(RequestFailed, match=r"switched off|signature"):  # not: the node does not answer
            await ask_all({"n1": one.address}, trusting, refused)
        known = Credentials(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase)
        assert (await ask_all({"n1": one.address}, trusting, known, lambda: pytest.fail("no need of it")))["n1"] is not None
        found = await ask_all({"n1": one.address}, trusting, refused, lambda: certified(one.cluster.configs.values()))
        assert found["n1"] is not None
        assert found["n1"].node_id == "n1"
