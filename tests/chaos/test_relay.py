"""The relay of the chaos tests: a good line passes all bytes unchanged, a bad line passes them late or not at all, and
no line changes them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator

import pytest

from tests.chaos.relay import GOOD, Quality, RelayProcess
from tests.ports import free_port

SECONDS = 30.0


class Echo:
    """A relay in front of a server that returns what it receives."""

    def __init__(self) -> None:
        self.inner, self.outer = free_port(), free_port()
        self.relay = RelayProcess(f"127.0.0.1:{self.outer}", f"127.0.0.1:{self.inner}", 1)

    async def serve(self) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            except ConnectionError:
                pass
            finally:
                writer.transport.abort()

        return await asyncio.start_server(answer, "127.0.0.1", self.inner)

    async def call(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.outer)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    made.relay.start()
    try:
        yield made
    finally:
        made.relay.stop()


async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> float:
    """Send `data`, and wait until it has returned unchanged. Returns the seconds that took."""
    begin = time.monotonic()
    async with asyncio.timeout(SECONDS):
        sending = asyncio.ensure_future(drained(writer, data))
        assert hashlib.sha256(await reader.readexactly(len(data))).digest() == hashlib.sha256(data).digest()
        await sending
    return time.monotonic() - begin


async def back_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send and wait again and again until it fails."""
    while True:
        await back(reader, writer, b"again")


async def drained(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def test_everything_arrives_in_order_and_late(echo: Echo) -> None:
    async def play() -> None:
        server = await echo.serve()
        reader, writer = await echo.call()
        data = bytes(range(256)) * 4096
        await back(reader, writer, data)
        echo.relay.set(Quality(delay=0.1, jitter=0.05))
        async with asyncio.timeout(SECONDS):
            while await back(reader, writer, b"late?") < 0.2:
                pass
        assert await back(reader, writer, data) >= 0.2, "both ways, 0.1 s at least"
        echo.relay.set(Quality(rate=200_000.0))
        async with asyncio.timeout(SECONDS):
            while await back(reader, writer, data[:40_000]) < 0.2:
                pass
        echo.relay.set(GOOD)
        writer.close()
        server.close()

    asyncio.run(play())


def test_connections_stand_still_and_are_reset(echo: Echo) -> None:
    async def play() -> None:
        server = await echo.serve()
        echo.relay.set(Quality(stall_every=0.3, stall=0.5))
        reader, writer = await echo.call()
        async with asyncio.timeout(SECONDS):
            while await back(reader, writer, b"still?") < 0.2:
                pass
        echo.relay.set(Quality(reset_every=0.05))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await back_for_ever(reader, writer)
        writer.transport.abort()
        server.close()

    asyncio.run(play())


def test_a_relay_flips_bits(echo: Echo) -> None:
    async def play() -> None:
        server = await echo.serve()
        reader, writer = await echo.call()
        await back(reader, writer, b"as it was")
        echo.relay.set(Quality(corrupt=1))
        with pytest.raises(AssertionError):
            await back_for_ever(reader, writer)
        writer.transport.abort()
        server.close()

    asyncio.run(play())


def test_either_end_ends_the_other(echo: Echo) -> None:
    async def play() -> None:
        reader, writer = await echo.call()
        async with asyncio.timeout(SECONDS):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.transport.abort()
        server = await echo.serve()
        reader, writer = await echo.call()
        await back(reader, writer, b"there")
        echo.relay.stop()
        async with asyncio.timeout(SECONDS):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        writer.transport.abort()
        server.close()

    asyncio.run(play())
