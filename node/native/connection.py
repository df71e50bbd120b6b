"""One connection to a node by the native protocol, from the client's side."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast, overload

import msgspec

from node.config.settings import NodeAddress
from node.errors import ConnectionLost, RequestFailed
from node.keys.credentials import Credentials, sign
from node.native.arrivals import Arrivals
from node.native.narrowing import is_former, narrowed
from node.native.protocol import (
    ANSWER_TYPES,
    PROTOCOL_VERSION,
    AddMember,
    Answer,
    AnyQuery,
    AnyRequest,
    ApiKeyQuery,
    ApiKeysQuery,
    AuctionQuery,
    AuctionView,
    BalancesQuery,
    BookPage,
    BookPageQuery,
    BookQuery,
    BookView,
    ChangeLevel,
    Control,
    ControlAction,
    ControlsQuery,
    ControlsView,
    CurrenciesQuery,
    Events,
    FailCode,
    Failed,
    FeesQuery,
    FeesView,
    FollowKeys,
    Hello,
    KeysChanged,
    LevelReport,
    LogChunk,
    LogQuery,
    MarketQuery,
    MarketView,
    NodeStatus,
    OrderQuery,
    OrdersQuery,
    PrepareLevel,
    ProductsQuery,
    Query,
    RemoveMember,
    Results,
    RightsQuery,
    StatusQuery,
    StreamQuery,
    Subscribe,
    Subscribed,
    TradesQuery,
    Unsubscribe,
    Welcome,
    frame,
)
from node.native.submissions import WRITTEN_AT, Submissions
from node.system.sockets import reachable
from statemachine.commands import AnyCommand
from statemachine.events import AnyOutcome, OrderMatched, OrderState
from statemachine.tables import ApiKeyRow, BalanceRow, CurrencyRow, ProductRow, StreamRow

CONNECT_TIMEOUT = 2.0
"""Seconds to open a connection, including TLS handshake and greeting."""
CLOSE_TIMEOUT = 1.0
"""Seconds for which `close` waits until written bytes are sent."""
EventsCallback = Callable[[Events], None]
EndCallback = Callable[[RequestFailed], None]
KeysCallback = Callable[[list[str]], None]
_Request = Query | Subscribe | Unsubscribe | Control | AddMember | RemoveMember | FollowKeys | ChangeLevel | PrepareLevel
"""Requests with one answer."""

_body_decoders = {query: msgspec.msgpack.Decoder(kind) for query, kind in ANSWER_TYPES.items()}


class Querier(Protocol):
    """The types of answers, by query. `NativeConnection.query` and `ClusterClient.query` both have this shape."""

    @overload
    async def __call__(self, query: StatusQuery, linearizable: bool = False) -> NodeStatus: ...
    @overload
    async def __call__(self, query: ProductsQuery, linearizable: bool = False) -> list[ProductRow]: ...
    @overload
    async def __call__(self, query: CurrenciesQuery, linearizable: bool = False) -> list[CurrencyRow]: ...
    @overload
    async def __call__(self, query: BalancesQuery, linearizable: bool = False) -> list[BalanceRow]: ...
    @overload
    async def __call__(self, query: OrderQuery, linearizable: bool = False) -> OrderState: ...
    @overload
    async def __call__(self, query: OrdersQuery, linearizable: bool = False) -> list[OrderState]: ...
    @overload
    async def __call__(self, query: BookQuery, linearizable: bool = False) -> BookView: ...
    @overload
    async def __call__(self, query: ApiKeyQuery, linearizable: bool = False) -> ApiKeyRow: ...
    @overload
    async def __call__(self, query: AuctionQuery, linearizable: bool = False) -> AuctionView | None: ...
    @overload
    async def __call__(self, query: TradesQuery, linearizable: bool = False) -> list[OrderMatched]: ...
    @overload
    async def __call__(self, query: ApiKeysQuery, linearizable: bool = False) -> list[ApiKeyRow]: ...
    @overload
    async def __call__(self, query: LogQuery, linearizable: bool = False) -> LogChunk: ...
    @overload
    async def __call__(self, query: BookPageQuery, linearizable: bool = False) -> BookPage: ...
    @overload
    async def __call__(self, query: MarketQuery, linearizable: bool = False) -> MarketView: ...
    @overload
    async def __call__(self, query: StreamQuery, linearizable: bool = False) -> StreamRow: ...
    @overload
    async def __call__(self, query: ControlsQuery, linearizable: bool = False) -> ControlsView: ...
    @overload
    async def __call__(self, query: FeesQuery, linearizable: bool = False) -> FeesView: ...
    @overload
    async def __call__(self, query: RightsQuery, linearizable: bool = False) -> int: ...


class _Subscription:
    """A subscription to the events of a product, with its callbacks."""

    def __init__(self, request_id: int, on_events: EventsCallback, on_end: EndCallback | None) -> None:
        self.request_id = request_id
        self.on_events = on_events
        self.on_end = on_end


class NativeConnection:
    """One connection. Many requests may be pending at once.

    Made by `open`. When either side ends the connection, every pending request raises `ConnectionLost`, `closed` is
    set, and `close_reason` has the reason. Not thread-safe: use it from its event loop.
    """

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.close_reason = ""
        self.reading = True
        self.welcome: Welcome
        self._wire = Arrivals(self)
        self._request_ids = itertools.count(1)
        self.submissions = Submissions(self._wire, self._request_ids, self.lost)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ahead: set[int] = set()
        """Requests whose answers go ahead of events."""
        self._subscriptions: dict[str, _Subscription] = {}
        self._on_keys: KeysCallback | None = None
        self._greeting: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        client: str = "",
        timeout: float = CONNECT_TIMEOUT,
    ) -> Self:
        """Connect to "unix:/path" or "host:port" and exchange greetings.

        Raises:
            ConnectionLost: no node listens there, it did not answer in `timeout` seconds, or TLS failed.
            RequestFailed: the node refused the greeting (UNAUTHORIZED, STOPPING, BAD_REQUEST for another protocol
                version).
        """
        connection = cls()
        try:
            async with asyncio.timeout(timeout):
                await connection._connect(address, tls)
                await connection._send(hello(credentials, client, time.time()))
                connection.welcome = await connection._greeting
        # The connection is aborted and not closed: the caller has nothing to wait for, and TLS closes in several steps.
        except (OSError, TimeoutError) as error:
            connection.abort(f"no connection to {address}: {str(error) or type(error).__name__}")
            raise ConnectionLost(connection.close_reason) from error
        except BaseException:
            connection.abort("the greeting failed")
            raise
        return connection

    def _encoded(self, message: AnyRequest) -> bytes:
        """Encode a request for the node's version.

        Raises:
            RequestFailed: the node's version does not support the request.
            ValueError: the request is too long.
        """
        return frame(narrowed(message) if self.submissions.former else message)

    async def submit(self, commands: Sequence[AnyCommand]) -> list[AnyOutcome]:
        """Apply commands. Returns their outcomes in the same order, durable on a quorum.

        Submissions of one turn of the event loop are written together, in order; over a Unix socket at most
        `WRITTEN_AT` of them. Consecutive submissions for the same account share a frame. Each submission stays in one
        frame, and succeeds or fails separately. Submissions for different accounts have separate frames, because the
        node gives accounts turns: one account's long queue must not delay the answers of another.

        Raises:
            RequestFailed: not applied, except OUTCOME_UNKNOWN (perhaps applied: send the same commands again).
            ConnectionLost: perhaps applied.
        """
        return await self.enqueue(commands)

    def enqueue(self, commands: Sequence[AnyCommand]) -> asyncio.Future[list[AnyOutcome]]:
        """Return a future for the result of `submit`. Cancelling the future before the commands are written withdraws
        them.
        """
        outcomes: asyncio.Future[list[AnyOutcome]] = asyncio.get_running_loop().create_future()
        self.submissions.add(list(commands), outcomes)
        return outcomes

    def flush(self) -> None:
        """See `arrivals.Owner`."""
        self.submissions.flush()

    async def _query(self, query: AnyQuery, linearizable: bool = False, *, ahead: bool = False) -> Any:
        """Send a query and decode its answer. With `ahead` the answer overtakes events that arrived before it."""
        request_id = next(self._request_ids)
        if ahead:
            self._ahead.add(request_id)
        try:
            answer: Answer = await self._request(Query(request_id, query, linearizable))
        finally:
            self._ahead.discard(request_id)
        return _body_decoders[type(query)].decode(answer.body)

    @property
    def query(self) -> Querier:
        """The function that sends a query. The query determines the type of the answer. Raises `RequestFailed`
        (NOT_FOUND, NOT_LEADER for linearizable ones ...) and `ConnectionLost`.
        """
        return self._query

    async def status_ahead_of_events(self) -> NodeStatus:
        """Return the node's status without waiting for events that arrived before it. Unlike after `query`, the events
        of commands up to the status' sequence may not have been passed on yet. Raises as `query`.
        """
        status: NodeStatus = await self._query(StatusQuery(), ahead=True)
        return status

    async def subscribe(
        self, product_id: str, from_sequence: int, on_events: EventsCallback, on_end: EndCallback | None = None
    ) -> int:
        """Subscribe to a product's events from `from_sequence` on (0: from now). They are passed to `on_events`.
        Returns the sequence of the first one.

        One subscription per product is possible. `on_events` runs in the event loop and must be short. If the node ends
        the subscription (TOO_OLD: it has jumped ahead by a snapshot, or this reader was too slow) `on_end` is called;
        without one the connection closes.

        Raises:
            RequestFailed: NOT_FOUND, TOO_OLD.
            ConnectionLost: the connection ended.
        """
        request_id = next(self._request_ids)
        subscription = _Subscription(request_id, on_events, on_end)
        previous = self._subscriptions.get(product_id)
        self._subscriptions[product_id] = subscription
        try:
            subscribed: Subscribed = await self._request(Subscribe(request_id, product_id, from_sequence))
        except BaseException:
            if self._subscriptions.get(product_id) is subscription:
                self._restore(product_id, previous)
            raise
        return subscribed.next_sequence

    def _restore(self, product_id: str, previous: _Subscription | None) -> None:
        if previous is None:
            del self._subscriptions[product_id]
        else:
            self._subscriptions[product_id] = previous

    async def unsubscribe(self, product_id: str) -> None:
        """Stop the events of a product. No event arrives after this returns."""
        await self._request(Unsubscribe(next(self._request_ids), product_id))
        self._subscriptions.pop(product_id, None)

    async def follow_keys(self, on_change: KeysCallback) -> None:
        """Call `on_change` with the ids of API keys that change. An empty list means that any key may have changed; it
        is also passed once when the connection ends.

        A change arrives before every answer that reflects it. Raises `RequestFailed` (FORBIDDEN: for gateways only),
        `ConnectionLost`.
        """
        self._on_keys = on_change
        await self._request(FollowKeys(next(self._request_ids)))

    async def control(self, action: ControlAction, about: str = "") -> bool:
        """Ask the node to transfer leadership (to the node `about`) or to take a snapshot. Returns True when it has
        begun.

        Raises `RequestFailed` if refused.
        """
        answer: Answer = await self._request(Control(next(self._request_ids), action, about))
        return msgspec.msgpack.decode(answer.body, type=bool)

    async def add_member(self, address: NodeAddress, *, read_only: bool = False) -> int:
        """Make a node a member of the cluster; see `protocol.AddMember`. Returns the index of the log entry. Raises
        `RequestFailed`, `ConnectionLost`.
        """
        request_id = next(self._request_ids)
        return await self._change(AddMember(request_id, address.node_id, address.raft, address.native, address.http, read_only))

    async def change_level(self, version: str, *, check: bool = False, earlier: bool | None = None) -> LevelReport:
        """Change the cluster's level, or report the obstacles; see `protocol.ChangeLevel`. Raises `RequestFailed`,
        `ConnectionLost`.
        """
        answer: Answer = await self._request(ChangeLevel(next(self._request_ids), version, check, earlier))
        return msgspec.msgpack.decode(answer.body, type=LevelReport)

    async def prepare_level(self, abi: str) -> None:
        """Ask the node to prepare its state for a level; see `protocol.PrepareLevel`. Raises `RequestFailed`,
        `ConnectionLost`.
        """
        await self._request(PrepareLevel(next(self._request_ids), abi))

    async def remove_member(self, node_id: str, *, force: bool = False) -> int:
        """Remove a node from the cluster; see `protocol.RemoveMember`. Returns the index of the log entry. Raises
        `RequestFailed`, `ConnectionLost`.
        """
        return await self._change(RemoveMember(next(self._request_ids), node_id, force))

    async def _change(self, change: AddMember | RemoveMember) -> int:
        answer: Answer = await self._request(change)
        return msgspec.msgpack.decode(answer.body, type=int)

    async def close(self) -> None:
        """Close the connection. Calling it again has no effect."""
        self.lost("closed by this side")
        transport = self._wire.transport
        if transport is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._wire.ended.wait()
        except TimeoutError:
            transport.abort()

    def abort(self, reason: str) -> None:
        """Close the connection at once, without flushing written bytes."""
        self.lost(reason)
        if self._wire.transport is not None:
            self._wire.transport.abort()

    def pause_reading(self) -> None:
        """Stop reading from the node until `resume_reading`. Its messages wait at the node."""
        if self._wire.transport is not None and not self.closed.is_set():
            self._wire.transport.pause_reading()
            self.reading = False

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._wire.transport is not None and not self.closed.is_set():
            self.reading = True
            if not self._wire.crowded:
                self._wire.transport.resume_reading()
            self._wire.go_on()

    async def _connect(self, address: str, tls: ssl.SSLContext | None) -> None:
        """Connect to a Unix socket or over TLS. Raises ConnectionLost."""
        loop = asyncio.get_running_loop()
        if address.startswith("unix:"):
            with reachable(Path(address.removeprefix("unix:"))) as name:
                transport, _ = await loop.create_unix_connection(self._protocol, name)
            transport.set_write_buffer_limits(0)  # uvloop then writes at once, and not at the end of the turn
            self.submissions.written_at = WRITTEN_AT
            return
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise ConnectionLost(f"{address!r} is neither unix:/path nor host:port")
        shutdown = None if tls is None else CLOSE_TIMEOUT
        await loop.create_connection(self._protocol, host.strip("[]"), int(port), ssl=tls, ssl_shutdown_timeout=shutdown)

    def _protocol(self) -> asyncio.Protocol:
        """Return the receiver of the connection's bytes."""
        return cast(asyncio.Protocol, self._wire)

    async def _request(self, message: _Request) -> Any:
        """Send a request, and wait for its answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[message.request_id] = answer
        try:
            await self._send(message)
            return await answer
        finally:
            self._waiting.pop(message.request_id, None)
            if not answer.done():
                answer.cancel()
            elif not answer.cancelled():
                answer.exception()  # marks the exception of an abandoned request as retrieved

    async def _send(self, message: AnyRequest) -> None:
        """Send a message after those submitted before. Raises ConnectionLost."""
        if not self._wire.writable.is_set():
            await self._wire.writable.wait()
        self.submissions.flush()  # what was submitted before goes first
        transport = self._wire.transport
        if self.closed.is_set() or transport is None:
            raise ConnectionLost(self.close_reason)
        try:
            data = self._encoded(message)
        except ValueError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, f"{error}; send fewer commands at a time") from error
        transport.write(data)

    def is_urgent(self, request_id: int) -> bool:
        """See `arrivals.Owner`."""
        return self.submissions.waits(request_id) or request_id in self._ahead

    def received(self, message: msgspec.Struct) -> None:
        """Handle a message of the node."""
        match message:
            case Results():
                self.submissions.applied(message)
            case Answer() | Subscribed():
                self._answer(message.request_id, message)
            case Events():
                subscription = self._subscriptions.get(message.product_id)
                if subscription is not None:
                    subscription.on_events(message)
            case KeysChanged():
                if self._on_keys is not None:
                    self._on_keys(message.key_ids)
            case Failed():
                self._failed(message)
            case Welcome():
                self._welcomed(message)

    def _answer(self, request_id: int, message: msgspec.Struct) -> None:
        answer = self._waiting.pop(request_id, None)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _welcomed(self, welcome: Welcome) -> None:
        """Accept the greeting of a node with the same version of the protocol."""
        if self._greeting.done():
            return
        self.submissions.former = is_former(welcome.abi)
        if welcome.version == PROTOCOL_VERSION:
            self._greeting.set_result(welcome)
            return
        text = f"the node speaks version {welcome.version} of the protocol, this client {PROTOCOL_VERSION}"
        self._greeting.set_exception(RequestFailed(FailCode.BAD_REQUEST, text))

    def _failed(self, failed: Failed) -> None:
        """Pass an error to the request that it answers."""
        error = RequestFailed(failed.code, failed.message, failed.leader)
        if self.submissions.refused(failed.request_id, error):
            return
        answer = self._waiting.pop(failed.request_id, None)
        if answer is not None:
            if not answer.done():
                answer.set_exception(error)
        elif not self._greeting.done():
            self._greeting.set_exception(error)
        else:
            self._ended(failed.request_id, error)

    def _ended(self, request_id: int, error: RequestFailed) -> None:
        """Handle a failure that answers no pending request: the end of a subscription, of the connection (0), or of a
        cancelled request.
        """
        for product_id, subscription in list(self._subscriptions.items()):
            if subscription.request_id == request_id:
                del self._subscriptions[product_id]
                if subscription.on_end is None:
                    self.lost(str(error))
                else:
                    subscription.on_end(error)
                return
        if request_id == 0:
            self.lost(str(error))

    def lost(self, reason: str) -> None:
        """End the connection for a reason. Calling it again has no effect."""
        if self.closed.is_set():
            return
        self.close_reason = reason
        self.closed.set()
        if self._wire.transport is not None:
            self._wire.transport.close()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionLost(reason))
        self.submissions.end(reason)
        if not self._greeting.done():
            self._greeting.set_exception(ConnectionLost(reason))
            self._greeting.exception()
        self._subscriptions.clear()
        if self._on_keys is not None:
            self._on_keys([])


def hello(credentials: Credentials | None, client: str, now: float) -> Hello:
    """Return the first message of a connection. It is signed with `credentials`; without them it is that of a gateway.
    `now` is in Unix seconds.
    """
    if credentials is None:
        return Hello(PROTOCOL_VERSION, client)
    timestamp = f"{now:.3f}"
    signature = sign(credentials.secret, timestamp)
    return Hello(PROTOCOL_VERSION, client, credentials.key_id, credentials.passphrase, timestamp, signature)
