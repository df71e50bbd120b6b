"""The Raft port over real TLS on loopback. A connection that does not belong to the cluster is refused and counted, and
the node continues.
"""

from __future__ import annotations

import asyncio
import datetime
import pickle
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from cluster import channel as channel_module
from cluster import wire as wire_module
from cluster.channel import FRAME_MAX, HELLO_MAX
from cluster.errors import RaftFatalError, WireRefusedError
from cluster.wire import Hello, TlsWire, WireSettings, split_address
from node.tls import pki
from tests.waiting import until

NOW = datetime.datetime.now(datetime.UTC)


class Certificates:
    """An authority and the certificates that it has signed, as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = pki.make_authority("c", NOW)
        directory.mkdir()
        (directory / "ca.pem").write_bytes(self._authority.certificate)

    def _load(self, context: ssl.SSLContext, node_id: str) -> None:
        path = self._directory / f"{node_id or 'nobody'}.pem"
        if not path.exists():
            pair = pki.issue(self._authority, node_id, [], NOW)
            path.write_bytes(pair.certificate + pair.key)
        context.load_cert_chain(path)

    def server(self, node_id: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self._directory / "ca.pem")
        self._load(context, node_id)
        return context

    def client(self, node_id: str | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.set_alpn_protocols([wire_module.ALPN])
        context.verify_mode = ssl.CERT_NONE if node_id is None else ssl.CERT_REQUIRED
        context.load_verify_locations(self._directory / "ca.pem")
        if node_id is not None:
            self._load(context, node_id)
        return context


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki") / "others")


class Peer:
    """A node's wire, and the calls that its owner receives."""

    def __init__(self, certificates: Certificates, node_id: str, peers: dict[str, str], *, listen: str = "127.0.0.1:0") -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.events: list[str] = []
        self.on_message: Callable[[str, bytes], None] = lambda peer, data: self.heard.append((peer, data))
        self.wire = TlsWire(
            WireSettings(
                Hello(wire_module.PROTOCOL, "c", node_id, "abi"),
                listen,
                peers,
                certificates.server(node_id),
                certificates.client(node_id),
                pki.peer_node_id,
            )
        )
        self.wire.start(
            lambda peer, data, _more: self.on_message(peer, data),
            lambda peer: self.events.append(f"+{peer}"),
            lambda peer: self.events.append(f"-{peer}"),
        )

    async def address(self) -> str:
        await until(lambda: self.wire._listener is not None)
        assert self.wire._listener is not None
        host, port = self.wire._listener.getsockname()[:2]
        return f"{host}:{port}"

    async def stop(self) -> None:
        self.wire.stop()
        await until(lambda: not self.wire._tasks and not self.wire._connections)


@asynccontextmanager
async def pair(ours: Certificates) -> AsyncIterator[tuple[Peer, Peer]]:
    """Return n1, which is tested, and n2, which has connected to it. Afterwards n1 must never have failed, and the two
    must still talk.
    """
    n1 = Peer(ours, "n1", {"n2": "127.0.0.1:1", "n3": "127.0.0.1:1"})
    n2 = Peer(ours, "n2", {"n1": await n1.address()})
    try:
        await until(lambda: n1.events == ["+n2"] and n2.events == ["+n1"])
        yield n1, n2
    finally:
        await n2.stop()
        await n1.stop()


async def still_talk(n1: Peer, n2: Peer) -> None:
    """Check that the connection that was there all the time still works."""
    assert n1.events == ["+n2"]
    n1.heard.clear()
    assert n2.wire.send("n1", b"still here")
    await until(lambda: n1.heard == [("n2", b"still here")])
    assert not n1.wire.failed.done()


def hello(**changes: object) -> bytes:
    body = msgspec.msgpack.encode(msgspec.structs.replace(Hello(wire_module.PROTOCOL, "c", "n3", "abi"), **changes))
    return len(body).to_bytes(4, "big") + body


async def call(peer: Peer, context: ssl.SSLContext | None, *data: bytes) -> bytes:
    """Connect to a node as somebody, send something, and read until the node closes. Returns what it sent."""
    host, port = split_address(await peer.address())
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            for piece in data:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.transport.abort()
    return b""


async def test_messages_go_both_ways_in_order(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        sent = [b"x" * size for size in (1, 2, 1000, 300_000, 3)]
        for message in sent:
            assert n1.wire.send("n2", message)
            assert n2.wire.send("n1", message)
        await until(lambda: len(n1.heard) == len(n2.heard) == len(sent))
        assert n1.heard == [("n2", message) for message in sent]
        assert n2.heard == [("n1", message) for message in sent]
        assert not n1.wire.send("n3", b"nobody")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\x00" * 200,
        bytes(range(256)) * 20,
        pickle.dumps({"type": "append_entries"}),
        b"\xff\xff\xff\xff" * 100,
    ],
    ids=["http", "broken tls", "garbage", "pickle", "oversized"],
)
async def test_a_caller_without_tls_is_refused(ours: Certificates, data: bytes) -> None:
    async with pair(ours) as (n1, n2):
        await call(n1, None, data)
        await until(lambda: n1.wire.refused == {"certificate": 1})
        await still_talk(n1, n2)


async def test_a_caller_without_a_certificate_is_refused(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        assert await call(n1, ours.client(None), hello()) == b""
        await until(lambda: n1.wire.refused == {"certificate": 1})
        await still_talk(n1, n2)


async def test_a_certificate_of_another_authority_is_refused(ours: Certificates, others: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        stranger = others.client("n3")
        stranger.verify_mode = ssl.CERT_NONE
        await call(n1, stranger, hello())
        await until(lambda: n1.wire.refused == {"certificate": 1})
        await still_talk(n1, n2)


@pytest.mark.parametrize("name", ["n9", "n1", ""])
async def test_a_certificate_that_names_no_peer_is_refused(ours: Certificates, name: str) -> None:
    async with pair(ours) as (n1, n2):
        await call(n1, ours.client(name), hello())
        await until(lambda: n1.wire.refused == {"unknown_node": 1})
        await still_talk(n1, n2)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("unknown_node", hello(node_id="n2")),
        ("cluster_id", hello(cluster_id="another")),
        ("abi", hello(abi="newer")),
        ("protocol", hello(protocol=99)),
        ("oversized", (HELLO_MAX + 1).to_bytes(4, "big") + b"x" * (HELLO_MAX + 1)),
        ("oversized", b"\xff\xff\xff\xff"),
        ("malformed", b"\x00\x00\x00\x05hello"),
        ("malformed", len(pickle.dumps({})).to_bytes(4, "big") + pickle.dumps({})),
        ("malformed", b"\x00\x00\x00\x00"),
    ],
)
async def test_a_hello_that_does_not_fit_is_refused(ours: Certificates, kind: str, data: bytes) -> None:
    async with pair(ours) as (n1, n2):
        await call(n1, ours.client("n3"), data)
        await until(lambda: n1.wire.refused == {kind: 1})
        await still_talk(n1, n2)


async def test_a_peer_that_sends_what_the_owner_refuses_is_disconnected(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):

        def refuse(peer: str, data: bytes) -> None:
            if peer == "n3":
                raise WireRefusedError("malformed", "garbage")
            n1.heard.append((peer, data))

        n1.on_message = refuse
        await call(n1, ours.client("n3"), hello(), b"\x00\x00\x00\x07garbage")
        await until(lambda: n1.wire.refused == {"malformed": 1} and n1.events[-1] == "-n3")
        n1.events = n1.events[:1]
        await still_talk(n1, n2)


async def test_a_frame_that_is_too_long_is_refused_before_it_is_read(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        await call(n1, ours.client("n3"), hello(), (FRAME_MAX + 1).to_bytes(4, "big"))
        await until(lambda: n1.wire.refused == {"oversized": 1} and n1.events[-1] == "-n3")
        n1.events = n1.events[:1]
        await still_talk(n1, n2)


async def test_a_caller_that_says_nothing_is_given_up(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "HANDSHAKE_TIMEOUT", 0.2)
    async with pair(ours) as (n1, n2):
        await call(n1, None)
        await call(n1, ours.client("n3"))
        await until(lambda: n1.wire.refused == {"handshake": 2})
        await still_talk(n1, n2)


async def test_callers_that_do_not_identify_themselves_are_bounded(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.callers.UNKNOWN_CALLERS_MAX", 2)
    async with pair(ours) as (n1, n2):
        waiting = [asyncio.create_task(call(n1, None)) for _ in range(2)]
        await until(lambda: n1.wire._door.unknown == 2)
        await call(n1, ours.client("n3"), hello())
        assert n1.wire.refused == {"too_many": 1}
        await still_talk(n1, n2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: n1.wire._door.unknown == 0)


async def test_a_silent_peer_counts_as_gone(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "SILENCE_MAX", 0.5)
    monkeypatch.setattr(wire_module, "KEEPALIVE", 0.1)
    async with pair(ours) as (n1, n2):
        await call(n1, ours.client("n3"), hello())
        await until(lambda: n1.events == ["+n2", "+n3", "-n3"])
        n1.events = n1.events[:1]
        await still_talk(n1, n2)


async def test_signs_of_life_keep_an_idle_connection(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "SILENCE_MAX", 0.25)
    monkeypatch.setattr(wire_module, "KEEPALIVE", 0.05)
    monkeypatch.setattr(wire_module, "CHECK_SLACK", 0.02)
    async with pair(ours) as (n1, n2):
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.6
        await until(lambda: loop.time() > end)
        assert n1.heard == []
        await still_talk(n1, n2)


async def test_a_message_takes_the_place_of_the_timer(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that gets heartbeats is not woken for the check of its connections."""
    monkeypatch.setattr(wire_module, "KEEPALIVE", 0.02)
    monkeypatch.setattr(wire_module, "CHECK_SLACK", 60.0)
    async with pair(ours) as (n1, n2):
        channel = n2.wire._connections["n1"].channel
        for _ in range(2):
            heard = channel.heard

            def sent(before: float = heard) -> bool:
                return n2.wire.send("n1", b"heartbeat") and channel.heard > before

            await until(sent)
        assert n1.wire._check is not None
        assert n1.wire._check.when() > asyncio.get_running_loop().time() + 50
        assert n2.heard == []


async def test_a_connected_node_has_no_timer_for_calls(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "CALL_AFTER", 0.03)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noting(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    async with pair(ours) as (n1, n2):
        loop = asyncio.get_running_loop()
        n1.wire.set_peers({"n2": "127.0.0.1:1"}, {})  # n3 is never reached, and called again and again
        await until(lambda: "n3" not in n1.wire._called)
        monkeypatch.setattr(asyncio, "sleep", noting)
        end = loop.time() + 0.1
        await until(lambda: loop.time() > end)
        assert [seconds for seconds in slept if seconds >= 0.03] == []
        await still_talk(n1, n2)


async def test_a_broken_connection_is_reported_at_both_ends_and_made_again(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        n1.wire._connections["n2"].channel.transport.abort()
        await until(lambda: n1.events == ["+n2", "-n2", "+n2"] and n2.events == ["+n1", "-n1", "+n1"])
        n1.events = n1.events[:1]
        await still_talk(n1, n2)


async def test_a_node_that_comes_back_is_called_again(ours: Certificates) -> None:
    n1 = Peer(ours, "n1", {"n2": "127.0.0.1:1"})
    address = await n1.address()
    n2 = Peer(ours, "n2", {"n1": address})
    await until(lambda: n2.events == ["+n1"])
    await n1.stop()
    await until(lambda: n2.events == ["+n1", "-n1"])
    n1 = Peer(ours, "n1", {"n2": "127.0.0.1:1"}, listen=address)
    await until(lambda: n2.events == ["+n1", "-n1", "+n1"])
    await n2.stop()
    await n1.stop()


async def test_a_second_connection_of_a_peer_takes_the_place_of_the_first(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        first = asyncio.create_task(call(n1, ours.client("n3"), hello()))
        await until(lambda: n1.events == ["+n2", "+n3"])
        second = asyncio.create_task(call(n1, ours.client("n3"), hello()))
        await until(lambda: n1.events == ["+n2", "+n3", "-n3", "+n3"])
        await first
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await until(lambda: n1.events[-1] == "-n3")
        n1.events = n1.events[:1]
        await still_talk(n1, n2)


async def test_a_caller_does_not_talk_to_another_node_than_it_called(ours: Certificates) -> None:
    n1 = Peer(ours, "n1", {"n3": "127.0.0.1:1"})
    n3 = Peer(ours, "n3", {"n1": "127.0.0.1:1", "n2": await n1.address()})
    await until(lambda: n3.wire.refused["unknown_node"] > 0)
    assert "+n2" not in n3.events
    await n3.stop()
    await n1.stop()


async def test_an_error_of_the_wires_owner_stops_the_node(ours: Certificates) -> None:
    def fail(peer: str, data: bytes) -> None:
        raise RaftFatalError("the disk is gone")

    async with pair(ours) as (n1, n2):
        n1.on_message = fail
        n2.wire.send("n1", b"x")
        await until(n1.wire.failed.done)
        assert isinstance(n1.wire.failed.exception(), RaftFatalError)


async def test_an_address_in_use_stops_the_node(ours: Certificates) -> None:
    async with pair(ours) as (n1, _):
        again = Peer(ours, "n1", {}, listen=await n1.address())
        await until(again.wire.failed.done)
        assert isinstance(again.wire.failed.exception(), OSError)
        await again.stop()


async def test_a_failing_accept_does_not_stop_the_node(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example is a process without file descriptors during a flood of connections."""
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept
    failures = [OSError(24, "too many open files")] * 2

    async def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    async with pair(ours) as (n1, n2):
        assert not failures
        await still_talk(n1, n2)


async def test_a_peer_that_does_not_read_is_given_up(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "WRITE_BUFFER_MAX", 1 << 20)
    async with pair(ours) as (n1, n2):
        n2.wire._connections["n1"].channel.transport.pause_reading()
        results = [n1.wire.send("n2", b"x" * (1 << 20)) for _ in range(40)]
        assert results[0]
        assert not results[-1]
        await until(lambda: "-n2" in n1.events)


async def test_a_peer_that_is_added_is_called(ours: Certificates) -> None:
    n1, n2 = Peer(ours, "n1", {}), Peer(ours, "n2", {})
    n1.wire.set_peers({"n2": await n2.address()}, {})
    n2.wire.set_peers({"n1": await n1.address()}, {})
    await until(lambda: n1.events == ["+n2"] and n2.events == ["+n1"])
    await n2.stop()
    await n1.stop()


async def test_the_smaller_id_calls_a_peer_that_does_not_call(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was down does not know a leader that was added meanwhile."""
    monkeypatch.setattr(wire_module, "CALL_AFTER", 0.05)
    n2 = Peer(ours, "n2", {})
    n1 = Peer(ours, "n1", {"n2": await n2.address()})
    await until(lambda: n2.wire.refused["unknown_node"] > 0)
    assert n2.events == []
    n2.wire.accepts_unknown = True
    await until(lambda: n1.events == ["+n2"] and n2.events == ["+n1"])
    await n2.stop()
    await n1.stop()


async def test_the_connection_made_by_the_greater_id_replaces_the_other_one(
    ours: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "CALL_AFTER", 0.05)
    async with pair(ours) as (n1, n2):
        first = n1.wire._connections["n2"]
        n1.wire.set_peers({"n2": await n2.address()}, {})
        assert await n1.wire._call("n2"), "the connection is accepted, and closed again"
        assert n1.wire._connections["n2"] is first
        await still_talk(n1, n2)


async def test_a_removed_node_learns_it_and_cannot_connect_again(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        n1.wire.set_peers({}, {"n2": b"last_message"})
        await until(lambda: n1.events == ["+n2", "-n2"])
        assert n2.heard[0] == ("n1", b"last_message")
        await until(lambda: n1.wire.refused["removed"] > 0 and len(n2.heard) > 1)
        assert set(n2.heard) == {("n1", b"last_message")}
        assert n1.events == ["+n2", "-n2"]


async def test_a_node_removed_during_a_call_learns_it_too(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    n2 = Peer(ours, "n2", {"n1": "127.0.0.1:1"})
    n1 = Peer(ours, "n1", {"n2": await n2.address()})
    monkeypatch.setattr(n1.wire, "_removed_peers", {"n2": b"last_message"})
    assert not await n1.wire._call("n2")
    await until(lambda: n2.heard == [("n1", b"last_message")])
    assert n1.events == []
    await n2.stop()
    await n1.stop()


async def test_a_former_peer_is_not_called(ours: Certificates) -> None:
    async with pair(ours) as (n1, n2):
        n2.wire.set_peers({}, {})
        n1.wire._connections["n2"].channel.transport.abort()
        await until(lambda: n2.events == ["+n1", "-n1"] and not n2.wire._called)
        assert n1.events == ["+n2", "-n2"]


async def test_a_peer_that_goes_before_it_is_called_is_not_called(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "CALL_AFTER", 0.05)
    n1 = Peer(ours, "n1", {"n2": "127.0.0.1:1"})
    await n1.address()
    n1.wire.set_peers({}, {})
    await until(lambda: not n1.wire._called)
    assert not n1.wire.failed.done()
    await n1.stop()


def test_addresses_are_split_into_host_and_port() -> None:
    assert split_address("10.0.0.1:7000") == ("10.0.0.1", 7000)
    assert split_address("[::1]:7000") == ("::1", 7000)
