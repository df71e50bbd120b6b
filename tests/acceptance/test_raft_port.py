"""The Raft port accepts nodes of this cluster only. Every other connection is refused and counted, and the node
continues to serve.
"""

from __future__ import annotations

import asyncio
import pickle
import random
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from loadtest.access import ClusterAccess
from loadtest.watch import Watcher
from node.deployment.setup import initialise
from node.native.protocol import NodeStatus
from tests.real_cluster import READY_SECONDS, Exchange

pytestmark = pytest.mark.cluster

SECONDS = 30.0


class Port:
    """The Raft port of the node n1, and connections to it with certificates of several kinds."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        config = exchange.access.layout.configs["n1"]
        host, _, port = config.raft.listen.rpartition(":")
        self.address = (host, int(port))

    @contextmanager
    def plain(self) -> Iterator[socket.socket]:
        """Open a TCP connection."""
        with socket.create_connection(self.address, timeout=SECONDS) as connection:
            connection.settimeout(SECONDS)
            yield connection

    @contextmanager
    def tls(self, directory: Path | None, node_id: str = "n3") -> Iterator[ssl.SSLSocket]:
        """Open a TLS connection with the certificate of a node in `directory`, or with none."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if directory is not None:
            context.load_cert_chain(directory / node_id / "node.pem", directory / node_id / "node.key")
        with self.plain() as connection, context.wrap_socket(connection, server_hostname="localhost") as wrapped:
            yield wrapped


def refused(status: NodeStatus) -> int:
    """Return how many connections the node has refused at its Raft port."""
    return sum(count for name, count in status.counters.items() if name.startswith("raft_refused_"))


async def status_of(exchange: Exchange) -> NodeStatus:
    watcher = Watcher(ClusterAccess(exchange.directory))
    try:
        status = await watcher.status("n1")
        assert status is not None
        return status
    finally:
        await watcher.close()


async def grows(exchange: Exchange, before: int) -> None:
    """Wait until another refusal is counted."""
    watcher = Watcher(exchange.access)
    try:
        await watcher.wait(lambda seen: (n1 := seen["n1"]) is not None and refused(n1) > before, "refusal counted", SECONDS)
    finally:
        await watcher.close()


def drained(connection: socket.socket) -> None:
    """Wait until the node closes the connection. Raises TimeoutError if it does not."""
    try:
        while connection.recv(4096):
            pass
    except (ConnectionError, ssl.SSLError):
        return


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the directory of another cluster, whose certificates are signed by another authority."""
    directory = tmp_path_factory.mktemp("stranger") / "cluster"
    initialise(directory, 3, base_port=20_000, cluster_id="another")
    return directory


def evil_pickle(path: Path) -> bytes:
    """Return a pickle that would make a directory at `path` if it were ever loaded."""
    return b"cos\nmkdir\n(V" + str(path).encode() + b"\ntR."


def check_alive(exchange: Exchange) -> None:
    """Check that the node serves and that its state has not changed."""
    statuses = asyncio.run(exchange.cluster.wait_ready(READY_SECONDS))
    assert all(status is not None and status.ready for status in statuses.values())


@pytest.mark.parametrize("seed", range(3))
def test_garbage_without_tls_is_refused(shared_exchange: Exchange, seed: int) -> None:
    before = refused(asyncio.run(status_of(shared_exchange)))
    with Port(shared_exchange).plain() as connection:
        connection.sendall(random.Random(seed).randbytes(5000))
        drained(connection)
    asyncio.run(grows(shared_exchange, before))
    check_alive(shared_exchange)


def test_a_pickle_without_tls_is_refused(shared_exchange: Exchange, tmp_path: Path) -> None:
    before = refused(asyncio.run(status_of(shared_exchange)))
    target = tmp_path / "loaded"
    with Port(shared_exchange).plain() as connection:
        body = evil_pickle(target)
        connection.sendall(struct.pack(">I", len(body)) + body)
        drained(connection)
    asyncio.run(grows(shared_exchange, before))
    assert not target.exists()
    check_alive(shared_exchange)


def test_the_pickle_of_these_tests_is_a_working_one(tmp_path: Path) -> None:
    pickle.loads(evil_pickle(tmp_path / "loaded"))
    assert (tmp_path / "loaded").is_dir()


@pytest.mark.parametrize("with_certificate", [False, True], ids=["no certificate", "another authority's certificate"])
def test_a_caller_without_a_certificate_of_the_cluster_is_refused(
    shared_exchange: Exchange, stranger: Path, with_certificate: bool
) -> None:
    before = refused(asyncio.run(status_of(shared_exchange)))
    # TLS 1.3 tells a client that its certificate was not taken only when it reads.
    with suppress(OSError), Port(shared_exchange).tls(stranger if with_certificate else None) as connection:
        connection.sendall(struct.pack(">I", 5) + b"hello")
        assert connection.recv(4096) == b"", "nothing is said to a stranger"
    asyncio.run(grows(shared_exchange, before))
    check_alive(shared_exchange)


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 2**32 - 1) + b"x" * 1000,
        frame(b"\x00" * 100),
        frame(b"\x94\x01\xa1x\xa2n3\xa1y"),
        frame(evil_pickle(Path("/nonexistent/loaded"))),
    ],
    ids=["oversized frame", "zeros", "another cluster's hello", "pickle"],
)
def test_a_peer_with_a_wrong_first_frame_is_refused(shared_exchange: Exchange, data: bytes) -> None:
    before = refused(asyncio.run(status_of(shared_exchange)))
    with Port(shared_exchange).tls(shared_exchange.directory) as connection:
        connection.sendall(data)
        drained(connection)
    asyncio.run(grows(shared_exchange, before))
    check_alive(shared_exchange)


@pytest.mark.parametrize("kind", ["garbage", "oversized", "pickle"])
def test_a_peer_that_sends_garbage_after_its_hello_is_disconnected(shared_exchange: Exchange, kind: str, tmp_path: Path) -> None:
    """Even a connection with a node's own key is closed without an answer if what it sends is not a message."""
    before = refused(asyncio.run(status_of(shared_exchange)))
    target = tmp_path / "loaded"
    data = {
        "garbage": frame(random.Random(1).randbytes(3000)),
        "oversized": struct.pack(">I", 2**31) + b"x" * 1000,
        "pickle": frame(evil_pickle(target)),
    }[kind]
    with Port(shared_exchange).tls(shared_exchange.directory) as connection:
        size = struct.unpack(">I", connection.recv(4))[0]
        hello = connection.recv(size)
        connection.sendall(frame(hello.replace(b"\xa2n1", b"\xa2n3")) + data)
        drained(connection)
    asyncio.run(grows(shared_exchange, before))
    assert not target.exists()
    check_alive(shared_exchange)


def test_no_handshake_is_left_waiting(shared_exchange: Exchange) -> None:
    """A hello that arrives together with the connection must not be lost, else a node that returns waits seconds for
    its peers. In the end a node that waits for a hello closes the connection without an answer.
    """
    port = Port(shared_exchange)
    for _ in range(25):
        with port.tls(shared_exchange.directory) as connection:
            assert connection.recv(4)
