"""Sends orders over the WebSocket of any node that answers, in the messages of the gateway's `socket_orders`."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from loadtest.market import Trader
from node.errors import ConnectionLost
from node.keys.credentials import sign
from node.system import tasks as background
from node.tls import pki

PAUSE_S = 0.05
"""Seconds between two attempts."""

TRY_S = 5.0
"""Seconds without an answer after which the client leaves a node."""

AGAIN = frozenset({307, 429, 503, 504})
"""Statuses of results after which the same message may be sent again, here or to another node."""


class OrderSocket:
    """One connection at a time, to the first of `urls()` that answers. Requests that are under way when it breaks are
    sent again over the next connection. A repetition has the same `request_id`, so it is carried out once.
    """

    def __init__(self, urls: Callable[[], Sequence[str]], person: Trader, *, authority: str = "", patience_s: float) -> None:
        self._urls = urls
        self._person = person
        self._tls: ssl.SSLContext | bool = pki.trusting_context(authority) if authority else True
        self._patience_s = patience_s
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._turn = 0
        self._asked = 0

    async def ask(self, name: str, message: Mapping[str, object]) -> dict[str, Any]:
        """Send a message until it has a result that another attempt would not change. `name` begins its `request_id`.

        Raises:
            ConnectionLost: no result arrived in time.
        """
        # Each message has a `request_id` of its own, also one that repeats an order: both may be under way.
        self._asked += 1
        request_id = f"{name}.{self._asked}"
        end = time.monotonic() + self._patience_s
        reason = ""
        while time.monotonic() < end:
            socket = self._socket
            try:
                async with asyncio.timeout(TRY_S):
                    socket, signature = await self._connected()
                    result = await self._answer(socket, request_id, {**message, **signature})
            except (aiohttp.ClientError, OSError, TimeoutError, ConnectionLost) as error:
                reason = str(error) or type(error).__name__
                await self._leave(socket)
            else:
                if result["status"] not in AGAIN:
                    return result
                reason = f"status {result['status']}"
                if result["status"] == 307:
                    await self._leave(socket)
            await asyncio.sleep(PAUSE_S)
        raise ConnectionLost(f"no result within {self._patience_s:g} s: {reason}")

    async def _answer(
        self, socket: aiohttp.ClientWebSocketResponse, request_id: str, message: Mapping[str, object]
    ) -> dict[str, Any]:
        """Send a message, and wait for its answer."""
        result: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = result
        try:
            await socket.send_str(msgspec.json.encode({"request_id": request_id, **message}).decode())
            return await result
        finally:
            self._waiting.pop(request_id, None)

    async def _connected(self) -> tuple[aiohttp.ClientWebSocketResponse, dict[str, object]]:
        """Return the connection, and the signature that the first message over it carries."""
        async with self._opening:
            if self._socket is not None and not self._socket.closed:
                return self._socket, {}
            if self._session is None:
                self._session = aiohttp.ClientSession()
            urls = self._urls()
            url = urls[self._turn % len(urls)].replace("http", "ws", 1) + "/ws"
            self._turn += 1
            self._socket = await self._session.ws_connect(url, ssl=self._tls, heartbeat=5.0)
            self._turn = 0
            self._reader = asyncio.create_task(self._read(self._socket))
            person, timestamp = self._person, f"{time.time():.6f}"
            return self._socket, {
                "key": person.key_id,
                "passphrase": person.passphrase,
                "timestamp": timestamp,
                "signature": sign(person.secret, timestamp, "GET", "/users/self/verify"),
            }

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Give each answer to the request that waits for it."""
        try:
            async for frame in socket:
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    break
                message = msgspec.json.decode(frame.data)
                waiting = self._waiting.get(message.get("request_id", ""))
                if message.get("type") == "result" and waiting is not None and not waiting.done():
                    waiting.set_result(message)
        finally:
            self._fail("the connection ended")

    def _fail(self, reason: str) -> None:
        for waiting in list(self._waiting.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionLost(reason))

    async def _leave(self, socket: aiohttp.ClientWebSocketResponse | None) -> None:
        """Close this connection, unless another request did."""
        async with self._opening:
            if socket is not None and self._socket is socket:
                self._socket = None
                await _closed(socket, self._reader)

    async def close(self) -> None:
        """Close the connection."""
        await self._leave(self._socket)
        if self._session is not None:
            await self._session.close()


async def _closed(socket: aiohttp.ClientWebSocketResponse, reader: asyncio.Task[None] | None) -> None:
    """Cut a connection without waiting for the other side."""
    if reader is not None:
        await background.cancel([reader])
    try:
        async with asyncio.timeout(0.5):
            await socket.close()
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
