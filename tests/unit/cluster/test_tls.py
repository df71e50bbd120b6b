"""TLS connections whose handshakes run outside the event loop. An error ends one connection only, and long messages
arrive whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster.tls import TlsProtocol
from node.cluster_directory import ClusterDirectory
from node.deployment.setup import initialise
from node.tls import pki


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context and a client's."""
    directory: Path = tmp_path_factory.mktemp("pki") / "c"
    initialise(directory, 1)
    cluster = ClusterDirectory(directory)
    return pki.server_context(cluster.configs["n1"], require_client_cert=False), cluster.tls()


@contextlib.asynccontextmanager
async def listening(context: ssl.SSLContext, make: Callable[[], asyncio.Protocol], **more: Any) -> AsyncIterator[int]:
    threads = ThreadPoolExecutor(1)
    server = await asyncio.get_running_loop().create_server(lambda: TlsProtocol(context, make, threads, **more), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        threads.shutdown()


class Echo(asyncio.Protocol):
    """Returns what it receives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Broken(asyncio.Protocol):
    """Has a defect."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise RuntimeError("a defect")


async def test_long_messages_come_whole(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    async with listening(server, Echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        data = bytes(range(256)) * 8_000
        writer.write(data)
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()


async def test_a_defect_ends_that_connection_and_is_logged(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    async with listening(server, Broken) as port:
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
                writer.close()
    assert [str(context["exception"]) for context in errors] == ["a defect"] * 2
    assert all("handle" not in context for context in errors), "a callback's exception would end the node"


async def test_bytes_that_are_no_handshake_are_logged_and_end_the_connection(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, _ = contexts
    failed: list[BaseException] = []
    async with listening(server, Echo, failed=failed.append) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\x40\x00" + b"x" * 100_000)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                while await reader.read(1 << 16):
                    continue
        assert len(failed) == 1
        writer.close()
