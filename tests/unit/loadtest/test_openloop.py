"""The open-loop load generator of `make compare`."""

from __future__ import annotations

import asyncio

from loadtest.compare.openloop import OpenLoop


async def test_no_connection_is_left_open_when_the_time_is_up() -> None:
    left = 4
    all_ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept requests and answer none."""
        nonlocal left
        try:
            while await reader.read(1_000):
                pass
        except ConnectionResetError:
            pass
        writer.close()
        left -= 1
        if not left:
            all_ended.set()

    server = await asyncio.start_server(silent, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    load = await OpenLoop(f"{host}:{port}", 1_000.0, 4).run([b"GET / HTTP/1.1\r\n\r\n"] * 3, most_seconds=0.05)
    assert load.good == 0
    async with asyncio.timeout(5):
        await all_ended.wait()
    server.close()
