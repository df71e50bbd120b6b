"""`AsyncRestClient.stream` over nodes that fail, or refuse what another node serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from node.client import AsyncRestClient, RestError
from node.client.rest import NOT_NOW

Answer = Callable[[int, int], list[Any]]
"""The messages with which a node answers a subscription, from how many it had before and the wanted sequence. Then it ends
the connection.
"""


async def with_nodes(answers: list[Answer], work: Callable[[AsyncRestClient], Awaitable[None]]) -> None:
    """Run `work` with a client of some nodes."""
    runners, urls = [], []
    for answer in answers:
        asked: list[int] = []

        async def serve(request: web.Request, answer: Answer = answer, asked: list[int] = asked) -> web.StreamResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            wanted = json.loads((await socket.receive()).data).get("from_sequence", 1)
            for message in [{"type": "subscriptions"}, *answer(len(asked), wanted)]:
                await socket.send_str(json.dumps(message))
            asked.append(wanted)
            await socket.close()
            return socket

        app = web.Application()
        app.router.add_get("/ws", serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        runners.append(runner)
    try:
        async with asyncio.timeout(20), AsyncRestClient(urls) as client:
            await work(client)
    finally:
        for runner in runners:
            await runner.cleanup()


def full(before: int, wanted: int) -> list[Any]:
    return [{"type": "done", "sequence": wanted + number} for number in range(2)] if before < 3 else []


def level3(_before: int, wanted: int) -> list[Any]:
    rows = [["noop", "BTC-USD", str(wanted + number), "2026-01-01T00:00:00Z"] for number in range(-1, 2)]
    return [{"type": "level3", "schema": {}}, *rows]


def refuses(text: str) -> Answer:
    """Return a node that refuses, on `level3` after the message with the schema."""
    return lambda _before, _wanted: [{"type": "level3", "schema": {}}, {"type": "error", "message": text, "reason": "r"}]


@pytest.mark.parametrize("text", ["sequence too old", NOT_NOW])
def test_a_stream_continues_at_a_node_that_serves(text: str) -> None:
    async def work(client: AsyncRestClient) -> None:
        seen: list[int] = []
        async for message in client.stream("BTC-USD", "full", 1):
            if "sequence" in message:
                seen.append(message["sequence"])
            if len(seen) == 5:
                break
        assert seen == [1, 2, 3, 4, 5]

    asyncio.run(with_nodes([full, refuses(text)], work))


def test_level3_has_arrays_and_continues_too() -> None:
    async def work(client: AsyncRestClient) -> None:
        seen: list[int] = []
        async for message in client.stream("BTC-USD", "level3", 5):
            if isinstance(message, list):
                seen.append(int(message[2]))
            if len(seen) == 5:
                break
        assert seen == [5, 6, 7, 8, 9]

    asyncio.run(with_nodes([level3, level3], work))


def test_a_stream_that_every_node_refuses_raises_an_error() -> None:
    async def work(client: AsyncRestClient) -> None:
        with pytest.raises(RestError, match="too old"):
            async for _ in client.stream("BTC-USD", "level3", 5):
                pass

    asyncio.run(with_nodes([refuses("too old"), refuses("too old")], work))
