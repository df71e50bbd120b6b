"""An HTTP server whose handler answers with the request itself, and raw sockets to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

from node.gateway.http.messages import Request, Response, json_response
from node.gateway.http.server import HttpServer
from tests.unit.node.gateway.harness import HOST, STOP_TIMEOUT

HOST_LINE = b"Host: x\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST_LINE + b"\r\n"


class Served:
    """A server whose handler notes what it gets and answers with the request's own words; `gate` holds answers back."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.refused: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: Callable[[Request], Response] = lambda request: json_response(
            {"method": request.method, "target": request.target, "body": request.body.decode("latin-1")}
        )
        self.server = HttpServer(
            self.handle,
            socket_paths=("/ws",),
            socket_protocol=_Echo,
            refused=lambda kind, _peer: self.refused.update([kind]),
        )

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        await self.gate.wait()
        return self.answer(request)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self.server.port)
        self.writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        """End what the test has opened, and the server."""
        self.gate.set()
        for writer in self.writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self.server.stop(STOP_TIMEOUT)

    async def talk(self, data: bytes, *, eof: bool = False) -> bytes:
        """Return all that the server sends until it closes the connection."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            if eof:
                writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


class _Echo(asyncio.Protocol):
    """What a connection is handed to: tells what it got."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a socket's transport is both

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"handed over: " + data)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    served = Served()
    await served.server.start(HOST, 0)
    try:
        yield served
    finally:
        await served.close()


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST /a HTTP/1.1\r\n" + HOST_LINE + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body
