"""`AsyncRestClient` and `RestClient`: REST and WebSocket, with any node that answers."""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import msgspec

from node.client.blocking import Blocking, Loop
from node.cluster_directory import KeyFile, read_key
from node.errors import ConnectionLost, QuorumbookError
from node.keys.credentials import sign
from node.system.tasks import Backoff
from node.tls import pki

PAUSE_MIN_S, PAUSE_MAX_S = 0.02, 0.5
"""Seconds between two attempts, doubling."""

TRY_S = 10.0
"""The longest duration of one attempt, in seconds. A node answers within its `http.deadline`."""

MESSAGE_MAX = 64 * 1024 * 1024
"""Bytes of one message: a snapshot of a book with a million orders is shorter."""

AGAIN = frozenset({429, 502, 503, 504})
"""Answers after which the same request may be sent again, here or to another node."""

RESUMABLE = frozenset({"full", "level3", "matches", "user"})
"""Channels whose messages have every sequence of a product, so that a stream can continue at another node."""

NOT_NOW = "This node cannot serve the feed at the moment"
"""The `error` message of a node whose engine does not answer (`node/gateway/sockets.py`). Another node, or the same one
later, may serve.
"""


class RestError(QuorumbookError):
    """The exchange answered with an error. `status` is the HTTP status, `body` the JSON, and `reason` its
    machine-readable reason, or "".
    """

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body
        self.reason = str(body.get("reason", "")) if isinstance(body, dict) else ""
        message = body.get("message", body) if isinstance(body, dict) else body
        super().__init__(f"HTTP {status}: {message}")


class AsyncRestClient:
    """Sends requests to one of several nodes, and to the next one if a node does not answer. Use it as `async with`.

    Args:
        urls: of the nodes, "http://host:port" or "https://host:port".
        key: a key file, or its contents; None for public calls only.
        authority: the text of `ca.pem`, for HTTPS, if the key file does not contain it.
        deadline: seconds after which a request fails.
    """

    def __init__(
        self, urls: Sequence[str], key: str | Path | KeyFile | None = None, *, authority: str = "", deadline: float = 10.0
    ) -> None:
        if not urls:
            raise ValueError("urls: expected at least one, such as http://127.0.0.1:7021")
        self._urls = [url.rstrip("/") for url in urls]
        self._key = read_key(Path(key)) if isinstance(key, str | Path) else key
        text = authority or (self._key.ca if self._key is not None else "")
        self._tls: ssl.SSLContext | bool = pki.trusting_context(text) if text else True
        self._deadline = deadline
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def prefer(self, url: str) -> None:
        """Use a node first from now on, such as the leader. The client may not have known it."""
        url = url.rstrip("/")
        if url != self._urls[0]:
            self._urls = [url, *(each for each in self._urls if each != url)]

    async def get(self, path: str, **parameters: object) -> Any:
        """Send a GET, and return the JSON of the answer. Raises as `request`."""
        return await self.request("GET", path, parameters)

    async def place(self, body: Mapping[str, object]) -> Any:
        """POST /orders. Without a `client_oid` the client makes one, so that a repetition places no second order.
        Raises as `request`.
        """
        return await self.request("POST", "/orders", body={"client_oid": str(uuid.uuid4()), **body})

    async def cancel(self, order_id: str) -> Any:
        """DELETE /orders/{id}; "client:ID" names an order by its `client_oid`. Raises as `request`."""
        return await self.request("DELETE", f"/orders/{order_id}")

    async def request(
        self, method: str, path: str, parameters: Mapping[str, object] | None = None, body: Mapping[str, object] | None = None
    ) -> Any:
        """Send a request until a node answers it, and return the JSON of the answer.

        A request that may have been applied is sent again with the same signature, so the exchange carries it out once.
        If it did so before, an order with a `client_oid` and a transfer with a `transfer_id` get their answer. Other
        requests get an error with the reason `replayed`.

        Raises:
            RestError: the exchange refused it. `replayed`: it was carried out, and the answer to an earlier attempt was
                lost.
            ConnectionLost: no node answered before the deadline.
        """
        given = {name: str(value) for name, value in (parameters or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        data = b"" if body is None else msgspec.json.encode(body)
        end, backoff = time.monotonic() + self._deadline, Backoff(PAUSE_MIN_S, PAUSE_MAX_S)
        headers = self._headers(method, target, data)
        while True:
            try:
                status, answer = await self._try(method, target, data, headers)
                if status < 400:
                    return answer
                error: QuorumbookError = RestError(status, answer)
                if status not in AGAIN:
                    raise error
            except (aiohttp.ClientError, TimeoutError, OSError) as failure:
                error = ConnectionLost(f"{self._urls[0]}: {str(failure) or type(failure).__name__}")
            pause_s = backoff.next_s()
            if time.monotonic() + pause_s > end:
                raise error
            self._urls.append(self._urls.pop(0))
            await asyncio.sleep(pause_s)
            if method == "GET":  # it may be read at any time, and a signature is valid for half a minute only
                headers = self._headers(method, target, data)

    def _headers(self, method: str, target: str, data: bytes) -> dict[str, str]:
        """Return the headers of a request, signed if the client has a key."""
        headers = {"Content-Type": "application/json"} if data else {}
        if self._key is not None:
            timestamp = f"{time.time():.6f}"
            headers |= {
                "CB-ACCESS-KEY": self._key.key_id,
                "CB-ACCESS-SIGN": sign(self._key.secret, timestamp, method, target, data),
                "CB-ACCESS-TIMESTAMP": timestamp,
                "CB-ACCESS-PASSPHRASE": self._key.passphrase,
            }
        return headers

    async def _try(self, method: str, target: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Send a request to the first node once. Returns the status and the decoded answer."""
        call = self._open_session().request(method, self._urls[0] + target, data=data or None, headers=headers, ssl=self._tls)
        async with asyncio.timeout(TRY_S), call as answer:
            text = await answer.read()
        try:
            return answer.status, msgspec.json.decode(text) if text else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return answer.status, text.decode("utf-8", "replace")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session

    async def stream(self, product_id: str, channel: str = "full", from_sequence: int | None = None) -> AsyncGenerator[Any, None]:
        """Yield the messages of a channel of one product, without the answers to subscriptions: objects, and on
        `level3` arrays.

        On the channels `full`, `level3`, `matches` and `user` the stream continues at another node after the last
        sequence that it yielded. On `full` and `level3` there is no gap and no repetition. Other channels start again,
        with a snapshot if they have one.

        Raises:
            RestError: every node has refused the subscription in turn, for example because none keeps the sequence
                (status 0).
        """
        position = from_sequence
        backoff = Backoff(PAUSE_MIN_S, PAUSE_MAX_S)
        refused = 0
        while True:
            refusal: RestError | None = None
            try:
                async with self._open_session().ws_connect(
                    self._urls[0] + "/ws", ssl=self._tls, heartbeat=5.0, max_msg_size=MESSAGE_MAX
                ) as socket:
                    await socket.send_str(msgspec.json.encode(self._subscription(product_id, channel, position)).decode())
                    async for frame in socket:
                        if frame.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                            break
                        message = msgspec.json.decode(frame.data)
                        kind, sequence = _kind_and_sequence(message)
                        if kind == "error":
                            refusal = RestError(0, message)
                            break
                        if kind == "subscriptions":
                            continue
                        if channel not in RESUMABLE or sequence is not None:  # a refusal may follow what has no sequence
                            backoff.reset()
                            refused = 0
                        if channel in RESUMABLE and sequence is not None:
                            if position is not None and sequence < position:
                                continue
                            position = sequence + 1
                        yield message
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
            if refusal is not None and refusal.body.get("message") != NOT_NOW:
                refused += 1
                if refused >= len(self._urls):
                    raise refusal
            self._urls.append(self._urls.pop(0))
            await backoff.wait()

    def _subscription(self, product_id: str, channel: str, position: int | None) -> dict[str, object]:
        """Return the message that subscribes to a channel, from a position on if the channel can resume."""
        message: dict[str, object] = {"type": "subscribe", "product_ids": [product_id], "channels": [channel]}
        if position is not None and channel in RESUMABLE:
            message["from_sequence"] = position
        if self._key is not None:
            timestamp = f"{time.time():.6f}"
            message |= {
                "key": self._key.key_id,
                "passphrase": self._key.passphrase,
                "timestamp": timestamp,
                "signature": sign(self._key.secret, timestamp, "GET", "/users/self/verify"),
            }
        return message


def _kind_and_sequence(message: Any) -> tuple[str, int | None]:
    """Return the type of a message, and its sequence, if it has one. On `level3` events are arrays of texts."""
    if isinstance(message, list):
        return str(message[0]), int(message[2])
    sequence = message.get("sequence")
    return str(message.get("type")), sequence if isinstance(sequence, int) else None


class RestClient(Blocking[AsyncRestClient]):
    """`AsyncRestClient` for programs without an event loop."""

    def __init__(
        self, urls: Sequence[str], key: str | Path | KeyFile | None = None, *, authority: str = "", deadline: float = 10.0
    ) -> None:
        self._loop = Loop()
        try:
            self._client = AsyncRestClient(urls, key, authority=authority, deadline=deadline)
        except BaseException:
            self._loop.close()
            raise

    def get(self, path: str, **parameters: object) -> Any:
        """See `AsyncRestClient.get`."""
        return self._loop.run(self._client.get(path, **parameters))

    def place(self, body: Mapping[str, object]) -> Any:
        """See `AsyncRestClient.place`."""
        return self._loop.run(self._client.place(body))

    def cancel(self, order_id: str) -> Any:
        """See `AsyncRestClient.cancel`."""
        return self._loop.run(self._client.cancel(order_id))

    def request(
        self, method: str, path: str, parameters: Mapping[str, object] | None = None, body: Mapping[str, object] | None = None
    ) -> Any:
        """See `AsyncRestClient.request`."""
        return self._loop.run(self._client.request(method, path, parameters, body))

    def stream(self, product_id: str, channel: str = "full", from_sequence: int | None = None) -> Iterator[Any]:
        """See `AsyncRestClient.stream`."""
        return self._loop.iterate(self._client.stream(product_id, channel, from_sequence))
