"""The WebSocket endpoint: reading requests, writing the queue, ending connections."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import WSMsgType, web

from node.budget import Bucket
from node.errors import QuorumbookError
from node.gateway import channels
from node.gateway.auth import SOCKET_METHOD, SOCKET_TARGET, Claim, Identity
from node.gateway.channels import ALIASES, CHANNELS, EVENT_CHANNELS
from node.gateway.decimals import text_of
from node.gateway.errors import ApiError, BadRequestError, NotLeaderError, UnavailableError
from node.gateway.feeds import ProductFeed
from node.gateway.gateway import Gateway
from node.gateway.ids import product_text
from node.gateway.requests import ChannelRequest, FeedRequest, given, parse
from node.gateway.sessions import Subscriber
from node.gateway.web import client_address
from node.keys.addresses import FORWARDED
from statemachine.types import Permission

log = logging.getLogger(__name__)

GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)
"""Where the application that serves WebSockets keeps its gateway."""

MESSAGE_MAX = 64 * 1024
"""Bytes of one message from a client."""
MESSAGES_PER_SECOND = 100.0
MESSAGES_BURST = 200.0
SESSIONS_MAX = 2_000
"""Connections of one gateway process."""
PING_EVERY = 30.0
CLOSE_TIMEOUT = 2.0
"""Seconds that the client has to answer a close frame before the connection is cut."""
POLICY = 1008
PRODUCTLESS = frozenset({"status"})


async def serve(request: web.Request) -> web.StreamResponse:
    """GET / and /ws: a WebSocket connection from beginning to end."""
    gateway: Gateway = request.app[GATEWAY]
    socket = web.WebSocketResponse(heartbeat=PING_EVERY, max_msg_size=MESSAGE_MAX, compress=False, timeout=CLOSE_TIMEOUT)
    if not socket.can_prepare(request):
        raise ApiError(426, "This path speaks WebSocket", headers={"Upgrade": "websocket"})
    address = client_address(gateway, request.remote or "", request.headers.getall(FORWARDED, []))
    gateway.limits.addresses.take(address)
    if len(gateway.feeds.sessions) >= SESSIONS_MAX:
        raise ApiError(429, "Too many connections", headers={"Retry-After": "1"})
    await socket.prepare(request)
    await Connection(gateway, socket, request, address).run()
    return socket


class Connection:
    """A client's connection: its `Subscriber`, and the two directions of its socket."""

    def __init__(self, gateway: Gateway, socket: web.WebSocketResponse, request: web.Request, address: str) -> None:
        self._gateway = gateway
        self._socket = socket
        self._transport = request.transport
        self._address = address
        self._subscriber = Subscriber(gateway.feeds, gateway.metrics, self._end)
        self._allowance = Bucket(MESSAGES_PER_SECOND, MESSAGES_BURST, asyncio.get_running_loop().time())
        self._writer: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until either side ends it."""
        self._gateway.metrics.sockets.inc()
        self._writer = asyncio.create_task(self._write())
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    await self._received(message.data)
                elif message.type is WSMsgType.BINARY:
                    self._subscriber.send(channels.error("messages must be text"))
        finally:
            self._subscriber.end(1000, "")
            if self._closing is not None:
                await self._closing
            self._gateway.metrics.sockets.dec()

    async def _write(self) -> None:
        try:
            while True:
                await self._socket.send_frame(await self._subscriber.next_message(), WSMsgType.TEXT)
        except ConnectionError:
            self._subscriber.end(1000, "")

    def _end(self, code: int, reason: str) -> None:
        self._closing = asyncio.create_task(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        """Send the close frame behind what is already in the socket's buffer, and cut a connection that does not take it."""
        if self._writer is not None:
            self._writer.cancel()
        try:
            async with asyncio.timeout(2 * CLOSE_TIMEOUT):
                await self._socket.close(code=code, message=reason.encode()[:120], drain=False)
        except (TimeoutError, ConnectionError) as error:
            log.debug("closing a connection: %r", error)
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()

    async def _received(self, text: str) -> None:
        if self._allowance.take(asyncio.get_running_loop().time()):
            self._gateway.metrics.cut_off("flood")
            self._subscriber.end(POLICY, "too many messages")
            return
        try:
            await self._obey(parse(text.encode(), FeedRequest, "the message"))
        except ApiError as error:
            self._subscriber.send(channels.error(error.message, error.detail or error.reason))
        except (UnavailableError, NotLeaderError, QuorumbookError) as error:
            self._subscriber.send(channels.error("This node cannot serve the feed at the moment", str(error)))

    async def _obey(self, request: FeedRequest) -> None:
        if request.type == "unsubscribe":
            self._subscriber.unsubscribe(expand(request, need_products=False))
            return
        if request.type != "subscribe":
            raise BadRequestError("type must be subscribe or unsubscribe", "type")
        identity = await self._identify(request)
        wanted = expand(request, need_products=True)
        if "user" in wanted:
            if identity is None:
                raise ApiError(401, "the channel user needs a signature", "signature", detail="authentication required")
            identity.require(Permission.VIEW)
        feeds = {channel: [await self._feed(product_id) for product_id in products] for channel, products in wanted.items()}
        resume = self._resume(request, wanted)
        if identity is not None and identity.permissions & Permission.VIEW:
            self._subscriber.identity = identity
        self._subscriber.subscribe(feeds, resume)
        self._gateway.revocation.check(self._subscriber)

    async def _identify(self, request: FeedRequest) -> Identity | None:
        """Whose connection it is: by this message, or by one before. Raises ApiError 401."""
        fields = (request.key, request.signature, request.passphrase)
        if not any(fields) and not given(request.timestamp):
            return self._subscriber.identity
        for name, text in zip(("key", "signature", "passphrase"), fields, strict=True):
            if not text:
                raise ApiError(401, f"{name} is required with the other fields of a signature", name)
        if not given(request.timestamp):
            raise ApiError(401, "timestamp is required with the other fields of a signature", "timestamp")
        timestamp = text_of(request.timestamp, "timestamp")
        claim = Claim(request.key or "", request.signature or "", timestamp, request.passphrase or "")
        identity = await self._gateway.auth.identify(claim, self._address, SOCKET_METHOD, SOCKET_TARGET, b"")
        before = self._subscriber.identity
        if before is not None and before.account_id != identity.account_id:
            raise ApiError(401, "the connection is another account's already", "key")
        return identity

    async def _feed(self, product_id: str) -> ProductFeed:
        product = await self._gateway.catalogue.product(product_id)
        return await self._gateway.feeds.feed(product)

    def _resume(self, request: FeedRequest, wanted: dict[str, list[str]]) -> dict[str, int]:
        """The last sequence seen of event channels, by product. Raises BadRequestError where there is nothing to go on with."""
        fresh = {product_id for channel in EVENT_CHANNELS for product_id in wanted.get(channel, [])}
        seen = {product_text(name): sequence for name, sequence in (request.resume or {}).items()}
        field, first = "resume" if seen else "from_sequence", request.from_sequence
        if first is not None:
            if seen:
                raise BadRequestError("from_sequence and resume may not be given together", "from_sequence")
            if not fresh:
                raise BadRequestError("from_sequence goes with the channels full, user and matches", "from_sequence")
            by_product = first if isinstance(first, dict) else dict.fromkeys(fresh, first)
            seen = {product_text(name): sequence - 1 for name, sequence in by_product.items()}
        for product_id, sequence in seen.items():
            following = self._subscriber.following.get(product_id)
            if product_id not in fresh or (following is not None and following.channels & EVENT_CHANNELS):
                text = f"{field} names a product that this message does not newly subscribe to full, user or matches"
                raise BadRequestError(text, field)
            if not 0 <= sequence < 2**63:
                raise BadRequestError(f"{field} must give a sequence, from {'0' if field == 'resume' else '1'} on", field)
        return seen


def expand(request: FeedRequest, *, need_products: bool) -> dict[str, list[str]]:
    """The channels of a request with their products, each once. Raises BadRequestError for an unknown channel or none to choose from."""
    common = request.product_ids or []
    listed = request.channels if request.channels is not None else ["full"] if need_products else list(CHANNELS)
    wanted: dict[str, list[str]] = {}
    for entry in listed:
        channel = entry if isinstance(entry, ChannelRequest) else ChannelRequest(entry)
        name = ALIASES.get(channel.name, channel.name)
        if name not in CHANNELS:
            raise BadRequestError(f"{name[:64]} is not a channel", "channels", detail=f"one of {', '.join(CHANNELS)}")
        products = [] if name in PRODUCTLESS else [product_text(text) for text in (*common, *(channel.product_ids or []))]
        if need_products and not products and name not in PRODUCTLESS:
            raise BadRequestError(f"product_ids is required for the channel {name}", "product_ids")
        wanted[name] = list(dict.fromkeys([*wanted.get(name, []), *products]))
    if not wanted:
        raise BadRequestError("channels must name at least one channel", "channels")
    return wanted
