"""A connection to one node: one that could not be made leaves nothing behind, one that ends fails all waiting requests,
and the submissions of one turn of the loop share a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from node.cluster_directory import ClusterDirectory
from node.deployment.setup import initialise
from node.errors import ConnectionLost, RequestFailed
from node.native.connection import NativeConnection
from node.native.protocol import PROTOCOL_VERSION, FailCode, Failed, StatusQuery, Submit, Welcome, frame
from node.native.submissions import JOINED_MAX, WRITTEN_AT
from node.tls import pki
from statemachine.commands import PutApiKey
from statemachine.events import Placed
from statemachine.limits import OPERATOR
from tests.unit.node.fakes import WORLD, buy, config_of, running
from tests.waiting import until


@pytest.fixture
def layout(tmp_path: Path) -> ClusterDirectory:
    """Return the certificates of a node."""
    initialise(tmp_path / "c", 1)
    return ClusterDirectory(tmp_path / "c")


@pytest.fixture
def refusing(layout: ClusterDirectory) -> Iterator[str]:
    """Return the address of a node that refuses the greeting and leaves it to the client to close."""
    context = pki.server_context(layout.configs["n1"], require_client_cert=False)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as channel:
            channel.recv(1 << 16)
            channel.sendall(frame(Failed(0, FailCode.UNAUTHORIZED, "passphrase: invalid")))
            over.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


def test_a_refused_greeting_leaves_no_open_socket(layout: ClusterDirectory, refusing: str) -> None:
    """The event loop of a command ends at once, so a connection that is still being closed would stay open."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(RequestFailed, match="passphrase"):
            asyncio.run(NativeConnection.open(refusing, tls=layout.tls()))
        gc.collect()
    assert [str(each.message) for each in seen if each.category is ResourceWarning] == []


@contextlib.asynccontextmanager
async def saying(path: Path, text: bytes) -> AsyncIterator[str]:
    """Start a node that sends one message to every client and then nothing more."""
    open_writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.append(writer)
        writer.write(text)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    async with server:
        yield f"unix:{path}"
    for writer in open_writers:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


WELCOME = frame(Welcome(PROTOCOL_VERSION, "n1", "test", "test", "abi"))


class TestConnection:
    async def test_every_request_in_progress_gets_an_error_when_the_connection_ends(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            node.raft.hold = True
            sending = [asyncio.create_task(connection.submit([buy(number)])) for number in range(3)]
            await until(lambda: node.raft.under_way > 0)
            await node.stop()
            results = await asyncio.gather(*sending, return_exceptions=True)
            assert all(isinstance(result, ConnectionLost) for result in results)
            assert connection.closed.is_set()
            with pytest.raises(ConnectionLost):
                await connection.query(StatusQuery())
            await connection.close()

    @pytest.mark.parametrize("address", ["nonsense", "localhost:http", "unix:/does/not/exist/engine.sock", "127.0.0.1:1"])
    async def test_a_connection_without_a_listener_fails(self, address: str) -> None:
        with pytest.raises(ConnectionLost):
            await NativeConnection.open(address)

    async def test_a_node_that_does_not_greet_in_time_is_given_up(self, tmp_path: Path) -> None:
        async with saying(tmp_path / "s", b"") as address:
            with pytest.raises(ConnectionLost, match="no connection"):
                await NativeConnection.open(address, timeout=0.1)

    async def test_a_request_that_was_given_up_does_not_disturb_the_others(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            node.raft.hold = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.submit(WORLD)
            node.raft.hold = False
            node.raft.tick()
            assert (await connection.query(StatusQuery())).sequence == len(WORLD)
            assert not connection.closed.is_set()
            await connection.close()

    async def test_garbage_from_a_node_ends_the_connection(self, tmp_path: Path) -> None:
        async with saying(tmp_path / "s", WELCOME + b"\x00\x00\x00\x02\xa5\x80") as address:
            connection = await NativeConnection.open(address)
            await asyncio.wait_for(connection.closed.wait(), 5)
            assert "not the native protocol" in connection.close_reason
            await connection.close()

    async def test_another_version_of_the_protocol_is_refused(self, tmp_path: Path) -> None:
        async with saying(tmp_path / "s", frame(Welcome(2, "n1", "test", "test", "abi"))) as address:
            with pytest.raises(RequestFailed, match="the node speaks version 2 of the protocol, this client 1"):
                await NativeConnection.open(address)

    async def test_a_subscription_that_ends_without_a_listener_closes_the_connection(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            await connection.submit(WORLD)
            await connection.subscribe("BTC-USD", 0, lambda _events: None)
            node.feed.restart({"BTC-USD": 7})
            await asyncio.wait_for(connection.closed.wait(), 5)
            assert connection.close_reason.startswith("TOO_OLD")
            await connection.close()

    async def test_unsubscribing_ends_the_events(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            await connection.submit(WORLD)
            seen: list[int] = []
            await connection.subscribe("BTC-USD", 0, lambda message: seen.append(len(message.events)))
            await connection.submit([buy(1)])
            await connection.unsubscribe("BTC-USD")
            await connection.submit([buy(2)])
            assert seen == [2]
            await connection.close()


def test_a_message_longer_than_a_frame_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="passes the limit"):
        frame(Failed(1, FailCode.BAD_REQUEST, "x" * 5_000_000))
    assert frame(Submit(1, [buy(1)]))


class TestJoining:
    """Submissions of one turn of the loop share a frame."""

    async def test_a_turn_is_one_frame_and_each_caller_gets_its_own(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            await connection.submit(WORLD)
            before = len(node.raft.entries)
            sizes = [1, 3, 0, 2]
            wanted = [[buy(10 * place + number, price=1) for number in range(size)] for place, size in enumerate(sizes)]
            found = await asyncio.gather(*(connection.submit(commands) for commands in wanted))
            assert len(node.raft.entries) == before + 1
            oids = [[each.order.client_oid for each in outcomes if isinstance(each, Placed)] for outcomes in found]
            assert oids == [[command.client_oid for command in commands] for commands in wanted]
            await connection.close()

    async def test_a_frame_is_bounded_and_order_is_kept(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            await connection.submit(WORLD)
            found = await asyncio.gather(*(connection.submit([buy(number, price=1)]) for number in range(JOINED_MAX + 3)))
            ids = [each.order.order_id for outcomes in found for each in outcomes if isinstance(each, Placed)]
            assert ids == sorted(ids)
            assert len(ids) == JOINED_MAX + 3
            assert connection.submissions.waiting == 0
            await connection.close()

    async def test_the_first_ones_are_written_before_the_turn_ends(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            await connection.submit(WORLD)
            outcomes = [connection.enqueue([buy(number, price=1)]) for number in range(WRITTEN_AT + 3)]
            assert connection.submissions.waiting == WRITTEN_AT
            assert connection._wire.transport is not None
            assert connection._wire.transport.get_write_buffer_size() == 0, "the kernel has them"
            assert len(await asyncio.gather(*outcomes)) == WRITTEN_AT + 3
            await connection.close()

    async def test_the_fault_of_one_does_not_reach_the_others(self, tmp_path: Path) -> None:
        """A number that the protocol cannot carry fails only the submission that contains it."""
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            await connection.submit(WORLD)
            one, big, other = await asyncio.gather(
                connection.submit([buy(1, price=1)]),
                connection.submit([buy(2, price=2**70)]),
                connection.submit([buy(3, price=1)]),
                return_exceptions=True,
            )
            assert isinstance(big, OverflowError)
            assert [type(each) for outcomes in (one, other) for each in outcomes] == [Placed, Placed]  # type: ignore[union-attr]
            await connection.close()

    async def test_a_refused_frame_is_sent_again_one_by_one(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            gateway = await NativeConnection.open(node.address)
            await gateway.submit(WORLD)
            refused = PutApiKey(OPERATOR, "bad", "k", "alice", "c2VjcmV0", "p" * 200, 7, sealed_by=99)
            one, bad, other = await asyncio.gather(
                gateway.submit([buy(1, price=1)]), gateway.submit([refused]), gateway.submit([buy(3, price=1)]),
                return_exceptions=True,
            )  # fmt: skip
            assert isinstance(bad, RequestFailed), bad
            assert [type(each) for outcomes in (one, other) for each in outcomes] == [Placed, Placed]  # type: ignore[union-attr]
            await gateway.close()

    async def test_one_that_is_given_up_before_it_left_is_not_sent(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path)) as node:
            connection = await NativeConnection.open(node.address)
            await connection.submit(WORLD)
            given_up = connection.enqueue([buy(1, price=1)])
            kept = connection.enqueue([buy(2, price=1)])
            given_up.cancel()
            await kept
            assert node.machine.engine.sequence == len(WORLD) + 1
            await connection.close()

    async def test_a_lost_connection_fails_each(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path), auto=False) as node:
            connection = await NativeConnection.open(node.address)
            waiting = [connection.enqueue([buy(number)]) for number in range(3)]
            await asyncio.sleep(0)
            queued = connection.enqueue([buy(9)])
            connection.abort("gone")
            found = await asyncio.gather(*waiting, queued, connection.enqueue([buy(10)]), return_exceptions=True)
            assert [type(each) for each in found] == [ConnectionLost] * 5
            assert len({id(each) for each in found}) == 5
