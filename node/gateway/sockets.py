"""The WebSocket endpoint: reads requests, writes the queue of messages, ends connections.

Every list in a message has a bound, and so has the number of (channel, product) pairs that the lists form together. The
work that a message causes therefore follows from its size, and is charged to the client's address (`limits`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket as socket_module
from dataclasses import dataclass, field

import msgspec
from aiohttp import WSMsgType, web

from node.budget import Cost
from node.errors import QuorumbookError
from node.gateway import channels, socket_orders
from node.gateway.auth import SOCKET_METHOD, SOCKET_TARGET, Claim, Identity
from node.gateway.balances import wanted_currencies
from node.gateway.calls import client_address
from node.gateway.channels import ALIASES, CHANNELS, EVENT_CHANNELS
from node.gateway.errors import ApiError, BadRequestError, NotLeaderError, UnavailableError
from node.gateway.feeds import ProductFeed
from node.gateway.gateway import Gateway
from node.gateway.limits import BYTES_PER_UNIT, FLOOD, MESSAGES_BURST, MESSAGES_PER_SECOND, MessageAllowance
from node.gateway.requests import ABSENT, given, parse
from node.gateway.sessions import Subscriptions
from node.gateway.values import product_text, text_of
from node.keys.addresses import FORWARDED
from statemachine.types import Permission

log = logging.getLogger(__name__)

GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)
"""The key of the gateway in the application that serves WebSockets."""

MESSAGE_MAX = 64 * 1024
"""Bytes of one message from a client."""
PING_EVERY = 30.0
RECEIVE_BUFFER = 8 * 1024
"""The socket's receive buffer in bytes (SO_RCVBUF, which Linux doubles). Larger messages arrive in several parts."""
CLOSE_TIMEOUT = 2.0
"""Seconds that the client has to answer a close frame before the connection is cut."""
POLICY, GOING_AWAY = 1008, 1001
"""Close codes: the client broke a rule, and the node stops."""
SIGNED = ("user", "balance")
"""Channels that need a valid API key."""


async def serve(request: web.Request) -> web.StreamResponse:
    """GET / and /ws: serve a WebSocket connection until it ends."""
    gateway: Gateway = request.app[GATEWAY]
    # The gateway answers pings instead of the library, so that they count as messages.
    socket = web.WebSocketResponse(
        heartbeat=PING_EVERY, autoping=False, max_msg_size=MESSAGE_MAX, compress=False, timeout=CLOSE_TIMEOUT
    )
    address = client_address(gateway, request.remote or "", request.headers.getall(FORWARDED, []))
    gateway.limits.addresses.take(address)
    if not socket.can_prepare(request):
        raise ApiError(426, "This path speaks WebSocket", headers={"Upgrade": "websocket"})
    if gateway.socket_limits.wait(address):
        raise ApiError(429, "Public rate limit exceeded", reason="rate_limit", headers={"Retry-After": "1"})
    if not gateway.socket_limits.enter(address):
        raise ApiError(429, "Too many connections", headers={"Retry-After": "1"})
    try:
        await socket.prepare(request)
        _bound_reads(request)
        await SocketConnection(gateway, socket, request, address).run()
    finally:
        gateway.socket_limits.leave(address)
    return socket


def _bound_reads(request: web.Request) -> None:
    """Reduce the socket's receive buffer. Its content is parsed at once, and 256 KiB may hold 40,000 pings."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is not None and sock.fileno() >= 0:
        with socket_module.socket(fileno=os.dup(sock.fileno())) as own:
            own.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, RECEIVE_BUFFER)


class SocketConnection:
    """A client's connection: its `Subscriptions`, and the two directions of its socket."""

    def __init__(self, gateway: Gateway, socket: web.WebSocketResponse, request: web.Request, address: str) -> None:
        self._gateway = gateway
        self._limits = gateway.socket_limits
        self._socket = socket
        self._transport = request.transport
        self._address = address
        self._subscriptions = Subscriptions(gateway.feeds, gateway.metrics, self._limits, address, self._end)
        self._allowance = MessageAllowance(asyncio.get_running_loop().time(), MESSAGES_PER_SECOND, MESSAGES_BURST)
        self._orders = socket_orders.SocketOrders(gateway, self._subscriptions.send)
        self._signed: Identity | None = None
        self._writer: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._code = 1000

    async def run(self) -> None:
        """Serve until either side ends it."""
        self._gateway.metrics.sockets.inc()
        self._writer = asyncio.create_task(self._write())
        try:
            async for message in self._socket:
                if not self._allowed(message.type):
                    break
                if message.type is WSMsgType.TEXT:
                    await self._received(message.data)
                elif message.type is WSMsgType.BINARY:
                    self._subscriptions.send(channels.error("messages must be text"))
                elif message.type is WSMsgType.PING:
                    await self._answer_ping(message.data)
        finally:
            self._subscriptions.end(1000, "")
            if self._closing is not None:
                await self._closing
            await self._orders.end(stopping=self._code == GOING_AWAY)
            self._gateway.metrics.sockets.dec()

    def _allowed(self, kind: WSMsgType) -> bool:
        """Count a message or control frame. A connection with too many is cut off and no longer read."""
        if self._allowance.take(asyncio.get_running_loop().time(), ping=kind is WSMsgType.PING):
            return True
        if not self._subscriptions.ended:
            if self._transport is not None:
                self._transport.pause_reading()
            self._gateway.metrics.cut_off("flood")
            self._limits.spend(self._address, FLOOD)
            self._subscriptions.end(POLICY, "too many messages")
            log.debug("the connection of %s is closed: more than %d messages a second", self._address, MESSAGES_PER_SECOND)
        return False

    async def _answer_ping(self, data: bytes) -> None:
        try:
            await self._socket.pong(data)
        except ConnectionError:
            self._subscriptions.end(1000, "")

    async def _write(self) -> None:
        """Write the waiting messages until the client is gone."""
        try:
            while True:
                message = await self._subscriptions.next_message()
                self._allowance.sent()
                await self._socket.send_frame(message, WSMsgType.TEXT)
        except ConnectionError:
            self._subscriptions.end(1000, "")

    def _end(self, code: int, reason: str) -> None:
        self._code = code
        self._closing = asyncio.create_task(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        """Send the close frame after the bytes already in the socket's buffer. Cut the connection if the client does
        not accept it.
        """
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
        """Handle a message of the client."""
        try:
            self._charge(Cost.REQUEST + len(text) / BYTES_PER_UNIT)
            data = text.encode()
            kind = socket_orders.kind_of(data)
            if kind:
                order = socket_orders.read(data, kind)
                identity = await self._identify(order)
                self._signed = identity or self._signed
                await self._orders.take(order, self._signed)
            else:
                await self._obey(parse(data, FeedRequest, "the message"))
        except ApiError as error:
            if error.status == 401:
                message = channels.authentication_failed(error.message)
            else:
                message = channels.error(error.message, error.detail or error.reason)
            if error.status in (400, 401):
                self._limits.spend(self._address, Cost.MALFORMED)
            self._subscriptions.send(message)
        except (UnavailableError, NotLeaderError, QuorumbookError) as error:
            self._subscriptions.send(channels.error("This node cannot serve the feed at the moment", str(error)))

    def _charge(self, cost: float) -> None:
        """Charge the client's address. Raises ApiError 429 if its budget is spent."""
        seconds = self._limits.take(self._address, cost)
        if seconds:
            text = f"Public rate limit exceeded: send the message again in {math.ceil(seconds)} s"
            raise ApiError(429, text, reason="rate_limit")

    async def _obey(self, request: FeedRequest) -> None:
        """Carry out a request to subscribe or unsubscribe."""
        if request.type not in ("subscribe", "unsubscribe"):
            raise BadRequestError("type must be subscribe or unsubscribe", "type")
        wanted = expand(request, subscribes=request.type == "subscribe")
        self._charge(Cost.rows(wanted.pairs + self._subscriptions.pairs))
        if request.type == "subscribe":
            await self._subscribe(request, wanted)
        elif wanted.channels:
            self._subscriptions.unsubscribe({channel: list(products) for channel, products in wanted.channels.items()})
        for name in wanted.unknown:
            self._subscriptions.send(channels.error("Failed to subscribe", f"{name[:64]} is not a channel"))

    async def _subscribe(self, request: FeedRequest, wanted: RequestedChannels) -> None:
        """Subscribe to channels. Raises ApiError."""
        identity = await self._identify(request)
        self._signed = identity or self._signed
        for channel in SIGNED:
            if channel in wanted.channels:
                if identity is None:
                    raise ApiError(401, f"the channel {channel} needs a signature", "signature")
                identity.require(Permission.VIEW)
        currencies: list[str] = []
        if "balance" in wanted.channels and identity is not None:
            currencies = await wanted_currencies(self._gateway.catalogue, identity, wanted.account_ids)
        feeds = {
            channel: [await self._feed(product_id) for product_id in products] for channel, products in wanted.channels.items()
        }
        resume = self._resume(request, wanted)
        for channel in ("level2", "level2_batch"):
            await self._render(feeds.get(channel, []), channel)
        if identity is not None and identity.permissions & Permission.VIEW:
            self._subscriptions.identity = identity
        if feeds:
            self._subscriptions.subscribe(feeds, resume, currencies)
        self._gateway.revocation.check(self._subscriptions)

    async def _render(self, feeds: list[ProductFeed], channel: str) -> None:
        """Prepare the snapshots with which the channel begins, and charge their cost."""
        for feed in feeds:
            following = self._subscriptions.following.get(feed.product_id)
            if following is None or channel not in following.channels:
                self._charge(feed.snapshot_cost)
                await feed.prepare_snapshot()

    async def _identify(self, request: FeedRequest | socket_orders.SignedMessage) -> Identity | None:
        """Return the connection's identity from this message or from an earlier one. Raises ApiError 401."""
        fields = (request.key, request.signature, request.passphrase)
        if not any(fields) and not given(request.timestamp):
            return self._subscriptions.identity
        for name, text in zip(("key", "signature", "passphrase"), fields, strict=True):
            if not text:
                raise ApiError(401, f"{name} is required with the other fields of a signature", name)
        if not given(request.timestamp):
            raise ApiError(401, "timestamp is required with the other fields of a signature", "timestamp")
        timestamp = text_of(request.timestamp, "timestamp")
        claim = Claim(request.key or "", request.signature or "", timestamp, request.passphrase or "")
        identity = await self._gateway.auth.identify(claim, self._address, SOCKET_METHOD, SOCKET_TARGET, b"")
        before = self._signed or self._subscriptions.identity
        if before is not None and (before.account_id, before.user_id) != (identity.account_id, identity.user_id):
            raise ApiError(401, "the connection is another account's already", "key")
        return await self._gateway.auth.with_accounts(identity)

    async def _feed(self, product_id: str) -> ProductFeed:
        product = await self._gateway.catalogue.listed(product_id)
        return await self._gateway.feeds.feed(product)

    def _resume(self, request: FeedRequest, wanted: RequestedChannels) -> dict[str, int]:
        """Return, by product, the last sequence that the client has seen. Raises BadRequestError if no event channel
        can be resumed.
        """
        fresh = {product_id for channel in EVENT_CHANNELS for product_id in wanted.channels.get(channel, {})}
        seen = {product_text(name): sequence for name, sequence in (request.resume or {}).items()}
        field, first = "resume" if seen else "from_sequence", request.from_sequence
        if first is not None:
            if seen:
                raise BadRequestError("from_sequence and resume may not be given together", "from_sequence")
            if not fresh:
                raise BadRequestError("from_sequence goes with the channels full, level3, user and matches", "from_sequence")
            by_product = first if isinstance(first, dict) else dict.fromkeys(fresh, first)
            seen = {product_text(name): sequence - 1 for name, sequence in by_product.items()}
        for product_id, sequence in seen.items():
            following = self._subscriptions.following.get(product_id)
            if product_id not in fresh or (following is not None and following.channels & EVENT_CHANNELS):
                text = f"{field} names a product that this message does not newly subscribe to full, level3, user or matches"
                raise BadRequestError(text, field)
            if not 0 <= sequence < 2**63:
                raise BadRequestError(f"{field} must give a sequence, from {'0' if field == 'resume' else '1'} on", field)
        return seen


class ChannelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A channel of a subscription with its own list of products, or of accounts for `balance`."""

    name: str
    product_ids: list[str] | None = None
    account_ids: list[str] | None = None


class FeedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message on the WebSocket.

    `from_sequence` is the first sequence that the client wants, for all products of the message or by product. `resume`
    gives, by product, the last sequence that the client has seen.
    """

    type: str
    product_ids: list[str] | None = None
    channels: list[str | ChannelRequest] | None = None
    resume: dict[str, int] | None = None
    from_sequence: int | dict[str, int] | None = None
    account_ids: list[str] | None = None
    signature: str | None = None
    key: str | None = None
    passphrase: str | None = None
    timestamp: msgspec.Raw = ABSENT


ENTRIES_MAX = 40
"""Entries of `channels` in one message: twice the number of existing channels, because some clients repeat a channel."""

NAMES_MAX = 1_000
"""Products named in all lists of one message together."""

PAIRS_MAX = 4_000
"""(channel, product) pairs of one message."""

ACCOUNTS_MAX = 100
"""Accounts named in one message."""

WITHOUT_PRODUCTS = frozenset({"status", "balance"})
"""Channels without products."""


@dataclass
class RequestedChannels:
    """The channels of a message with their products, each once and in the given order.

    `unknown` are the names of unknown channels. Each one gets its own error, and the other channels are still served.
    `account_ids` are the accounts of the channel `balance`.
    """

    channels: dict[str, dict[str, None]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    account_ids: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        """The number of (channel, product) pairs that the message names. Its cost grows with it."""
        return sum(max(1, len(products)) for products in self.channels.values())


def expand(request: FeedRequest, *, subscribes: bool) -> RequestedChannels:
    """Return the channels of a message. Without `channels`, `full` is subscribed, or every channel unsubscribed.

    Raises:
        BadRequestError: a list exceeds its bound, the message names no channel, or a subscribed channel has no
            products.
    """
    if request.channels is not None:
        entries = [entry if isinstance(entry, ChannelRequest) else ChannelRequest(entry) for entry in request.channels]
    else:
        entries = [ChannelRequest(name) for name in (["full"] if subscribes else CHANNELS)]
    _check_lengths(request, entries)
    common = _names(request.product_ids)
    wanted = RequestedChannels()
    for entry in entries:
        name = ALIASES.get(entry.name, entry.name)
        if name not in CHANNELS:
            wanted.unknown.append(name)
            continue
        products = wanted.channels.setdefault(name, {})
        if name not in WITHOUT_PRODUCTS:
            products |= common
            products |= _names(entry.product_ids)
            if subscribes and not products:
                raise BadRequestError(f"product_ids is required for the channel {name}", "product_ids")
        if name == "balance":
            wanted.account_ids += [*(request.account_ids or []), *(entry.account_ids or [])]
        if wanted.pairs > PAIRS_MAX:
            raise BadRequestError(f"at most {PAIRS_MAX} pairs of a channel and a product in one message", "channels")
    if not wanted.channels and not wanted.unknown:
        raise BadRequestError("channels must name at least one channel", "channels")
    return wanted


def _check_lengths(request: FeedRequest, entries: list[ChannelRequest]) -> None:
    """Raise BadRequestError for a list that is too long."""
    if len(entries) > ENTRIES_MAX:
        raise BadRequestError(f"channels: at most {ENTRIES_MAX} entries in one message, got {len(entries)}", "channels")
    first = request.from_sequence
    named = [request.product_ids, request.resume, first if isinstance(first, dict) else None]
    names = sum(len(each or ()) for each in (*named, *(entry.product_ids for entry in entries)))
    if names > NAMES_MAX:
        raise BadRequestError(f"product_ids: at most {NAMES_MAX} in one message, got {names}", "product_ids")
    accounts = sum(len(each or ()) for each in (request.account_ids, *(entry.account_ids for entry in entries)))
    if accounts > ACCOUNTS_MAX:
        raise BadRequestError(f"account_ids: at most {ACCOUNTS_MAX} in one message, got {accounts}", "account_ids")


def _names(product_ids: list[str] | None) -> dict[str, None]:
    return dict.fromkeys(product_text(text) for text in product_ids or ())
