"""The engine as a gateway uses it: the interface `Backend`, and its implementation over the native protocol.

`NodeBackend` connects to its node's engine over the Unix socket, and reconnects after the engine has restarted. It
sends a command there first. If another node leads, it forwards the same command with the same id to that node, and to
any later leader until the deadline, because many client libraries do not follow a redirect of a POST or DELETE. With
`http.followers = "redirect"` it raises `NotLeaderError` instead, before anything is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from node.errors import ConnectionLost, RequestFailed
from node.gateway.errors import ApiError, NotLeaderError, UnavailableError
from node.native.client import FULL, ClusterClient, NativeConnection
from node.native.connection import KeysCallback
from node.native.protocol import AnyQuery, ApiKeyQuery, ControlAction, Events, FailCode
from node.native.submissions import Deadlines, OutcomesTaker
from node.system.tasks import Backoff
from statemachine.commands import AnyCommand
from statemachine.events import AnyEvent, AnyOutcome
from statemachine.tables import ApiKeyRow

log = logging.getLogger(__name__)

RETRY_MIN = 0.01
RETRY_MAX = 0.2
"""Seconds between attempts to reach the engine (`Backoff`)."""

QUERY_DEADLINE = 2.0
"""Seconds for which a read waits for an engine that restarts."""

CATCH_UP_MAX = 1.0
CATCH_UP_POLL = 0.005
"""Seconds for which the answer to a forwarded command waits until this node has applied it, and between two checks."""

REPLAY_FRAMES_MAX = 4
"""Frames of events that may wait for a reader that catches up. At this number reading from the engine pauses, and the
engine stops sending.
"""

Lost = Callable[[str], None]
"""Called once when a subscription ends, with the reason."""


Outcomes = asyncio.Future[list[AnyOutcome]]

_Arrived = asyncio.Queue[list[AnyEvent] | None]


class Resent:
    """Whether commands were sent again after an attempt whose outcome is unknown. An outcome that already existed may
    then be their own.
    """

    def __init__(self) -> None:
        self.happened = False

    def note(self) -> None:
        """Record that the commands are sent again."""
        self.happened = True


class Backend(Protocol):
    """The operations of the exchange that the gateway uses."""

    @property
    def ready(self) -> bool:
        """Whether `enqueue` can send commands at once."""

    def enqueue(self, commands: Sequence[AnyCommand], outcomes: OutcomesTaker) -> None:
        """Send commands to this node's engine. `outcomes` gets the outcomes or the failure once."""

    async def submit(
        self, commands: Sequence[AnyCommand], resent: Resent | None = None, begun: Outcomes | None = None
    ) -> list[AnyOutcome]:
        """Return the outcomes of commands after they are durable and applied. `resent` records whether they were sent
        again.

        Args:
            begun: the receiver that was passed to `enqueue` for the first attempt.

        Raises NotLeaderError, UnavailableError, or ApiError 429 when the queue is full.
        """

    async def query(self, query: AnyQuery, linearizable: bool = False) -> Any:
        """Return this node's answer. Raises RequestFailed NOT_FOUND, UnavailableError, ApiError 429 if the account of a
        list of orders has used up its share, and NotLeaderError for a linearizable query.
        """

    async def query_leader(self, query: AnyQuery) -> Any:
        """Return the leader's answer, which reflects everything acknowledged before the call. Raises as `query`."""

    async def hand_over(self, node_id: str) -> None:
        """Ask the leader to transfer leadership to a node, or to the most up-to-date one. Raises RequestFailed,
        UnavailableError.
        """

    async def subscribe(self, product_id: str, from_sequence: int, on_events: Callable[[Events], None], on_lost: Lost) -> int:
        """Subscribe to events from `from_sequence` on. Returns the first sequence. Raises RequestFailed (TOO_OLD,
        NOT_FOUND), UnavailableError.
        """

    def replay(
        self, product_id: str, from_sequence: int
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[list[AnyEvent]]]:
        """Read events from `from_sequence` on over a separate connection, at the caller's pace. Raises as `subscribe`."""

    @property
    def follows_keys(self) -> bool:
        """Whether the engine currently reports changes of API keys, so that keys may be cached."""

    def follow_keys(self, on_change: KeysCallback) -> None:
        """Call `on_change` with the ids of changed API keys. An empty list means that any key may have changed, for
        example after the connection to the engine was lost.
        """

    async def close(self) -> None:
        """Close every connection."""


class NodeBackend:
    """Uses the engine of this node, and other nodes when this one does not lead."""

    def __init__(self, socket: str, cluster: ClusterClient, deadline: float, *, redirect: bool = False) -> None:
        self.trace: Callable[[Sequence[AnyCommand], int, int], None] | None = None
        """Called with answered commands, and the times of their start and end in nanoseconds since the epoch."""
        self._address = f"unix:{socket}"
        self._redirect = redirect
        self._cluster = cluster
        self._deadline = deadline
        self._connection: NativeConnection | None = None
        self._connecting = asyncio.Lock()
        self._deadlines = Deadlines()
        self._watcher: asyncio.Task[None] | None = None
        self._lost: dict[str, Lost] = {}
        self._on_keys: KeysCallback = lambda _key_ids: None

    @property
    def ready(self) -> bool:
        """See `Backend.ready`."""
        # The end of enqueued commands cannot be traced here, so with tracing all commands use `submit`.
        return self.trace is None and self._connection is not None and not self._connection.closed.is_set()

    def enqueue(self, commands: Sequence[AnyCommand], outcomes: OutcomesTaker) -> None:
        """See `Backend.enqueue`."""
        assert self._connection is not None, "the caller has checked the connection"
        self._connection.submissions.add(commands, outcomes)
        self._deadlines.watch(outcomes, asyncio.get_running_loop().time() + self._deadline)

    async def submit(
        self, commands: Sequence[AnyCommand], resent: Resent | None = None, begun: Outcomes | None = None
    ) -> list[AnyOutcome]:
        """See `Backend.submit`."""
        if self.trace is None:
            return await self._submit(commands, resent or Resent(), begun)
        begun_ns = time.time_ns()
        try:
            return await self._submit(commands, resent or Resent(), begun)
        finally:
            self.trace(commands, begun_ns, time.time_ns())

    async def _submit(self, commands: Sequence[AnyCommand], resent: Resent, begun: Outcomes | None) -> list[AnyOutcome]:
        """Submit to this node; if it gives no outcome, submit to the leader until the deadline."""
        end = asyncio.get_running_loop().time() + self._deadline
        unknown = False
        outcomes: list[AnyOutcome] | None = None
        try:
            outcomes = await self._submit_here(commands, end, begun)
        except (TimeoutError, ConnectionLost):
            unknown = True
        except RequestFailed as failure:
            if failure.code is not FailCode.OUTCOME_UNKNOWN:
                raise
            unknown = True
        if outcomes is None:
            outcomes = await self._submit_elsewhere(commands, end, unknown, resent)
            await self._catch_up(max((outcome.sequence for outcome in outcomes), default=0), end)
        return outcomes

    async def _submit_here(self, commands: Sequence[AnyCommand], end: float, begun: Outcomes | None) -> list[AnyOutcome] | None:
        """Return the outcomes from this node's engine, or None if it certainly did nothing because it is down or does
        not lead.

        Raises TimeoutError, ConnectionLost and RequestFailed.
        """
        if begun is None:
            connection = self._connection
            if connection is None or connection.closed.is_set():
                try:
                    async with asyncio.timeout_at(end):
                        connection = await self._connect()
                except (ConnectionLost, RequestFailed):
                    return None
            begun = connection.enqueue(commands)
            self._deadlines.watch(begun, end)
        try:
            return await begun
        except RequestFailed as failure:
            if self._redirect and failure.code is FailCode.NOT_LEADER and failure.leader is not None:
                raise NotLeaderError(failure.leader) from None
            if failure.code in (FailCode.NOT_LEADER, FailCode.NO_LEADER, FailCode.STOPPING):
                return None
            if failure.code in FULL:
                raise _too_many(failure) from None
            raise

    async def _submit_elsewhere(
        self, commands: Sequence[AnyCommand], end: float, unknown: bool, resent: Resent
    ) -> list[AnyOutcome]:
        """Send the same commands to the current leader until `end` (loop time)."""
        if unknown:
            resent.note()
        left = end - asyncio.get_running_loop().time()
        if left <= 0:
            raise UnavailableError("no node answered in time", outcome_unknown=unknown)
        try:
            return await self._cluster.submit(commands, deadline=left, on_resend=resent.note, patient=unknown)
        except ConnectionLost as error:
            raise UnavailableError(str(error), outcome_unknown=True) from None
        except RequestFailed as failure:
            if failure.code in (FailCode.BAD_REQUEST, FailCode.FORBIDDEN, FailCode.UNAUTHORIZED, FailCode.CONFLICT):
                raise
            if failure.code in FULL and not unknown:
                raise _too_many(failure) from None
            unknown = unknown or failure.code is FailCode.OUTCOME_UNKNOWN
            raise UnavailableError(failure.message, outcome_unknown=unknown) from None

    async def _catch_up(self, sequence: int, end: float) -> None:
        """Wait up to `CATCH_UP_MAX` until this node has applied the leader's answer, so that a client reads its own
        write here. It does not wait for events, so the book of this gateway may follow a little later.
        """
        loop = asyncio.get_running_loop()
        until = min(end, loop.time() + CATCH_UP_MAX)
        with contextlib.suppress(ConnectionLost, RequestFailed, TimeoutError):
            async with asyncio.timeout_at(until):
                connection = await self._connect()
                while True:
                    if (await connection.status_ahead_of_events()).sequence >= sequence:
                        return
                    await asyncio.sleep(CATCH_UP_POLL)

    async def query(self, query: AnyQuery, linearizable: bool = False) -> Any:
        """See `Backend.query`."""
        try:
            async with asyncio.timeout(QUERY_DEADLINE):
                return await self._query(query, linearizable)
        except TimeoutError:
            raise UnavailableError("the engine of this node does not answer") from None

    async def query_leader(self, query: AnyQuery) -> Any:
        """See `Backend.query_leader`. With `http.followers = "redirect"` a follower raises NotLeaderError."""
        if self._redirect:
            return await self.query(query, linearizable=True)
        return await self._at_leader(query)

    async def hand_over(self, node_id: str) -> None:
        """See `Backend.hand_over`."""
        try:
            await self._cluster.control(ControlAction.TRANSFER_LEADERSHIP, about=node_id)
        except ConnectionLost as error:
            raise UnavailableError(str(error)) from None

    async def _at_leader(self, query: AnyQuery) -> Any:
        """Ask the leader. Raises UnavailableError if it cannot be reached."""
        try:
            ask: Any = self._cluster.query
            return await ask(query, linearizable=True)
        except ConnectionLost as error:
            raise UnavailableError(str(error)) from None
        except RequestFailed as failure:
            if failure.code is FailCode.NOT_FOUND:
                raise
            raise UnavailableError(failure.message) from None

    async def _api_key(self, query: ApiKeyQuery, linearizable: bool) -> ApiKeyRow:
        """Return an API key from this node's engine. The leader is asked if the query is linearizable, or while the
        engine is down or has not caught up.
        """
        try:
            if not linearizable:
                return await (await self._connect()).query(query)
        except ConnectionLost:
            pass
        except RequestFailed as failure:
            if failure.code not in (FailCode.NO_LEADER, FailCode.STOPPING):
                raise
        found: ApiKeyRow = await self._at_leader(query)
        return found

    async def _query(self, query: AnyQuery, linearizable: bool) -> Any:
        """Ask this node, again while the connection is lost."""
        if isinstance(query, ApiKeyQuery):
            return await self._api_key(query, linearizable)
        backoff = Backoff(RETRY_MIN, RETRY_MAX)
        while True:
            try:
                connection = await self._connect()
                ask: Any = connection.query
                return await ask(query, linearizable)
            except ConnectionLost:
                pass
            except RequestFailed as failure:
                if failure.code is FailCode.NOT_LEADER and failure.leader is not None:
                    raise NotLeaderError(failure.leader) from None
                if failure.code in (FailCode.NOT_FOUND, FailCode.BAD_REQUEST):
                    raise
                if failure.code is FailCode.RATE_LIMITED:
                    raise _too_many(failure) from None
                if failure.code not in (FailCode.NOT_LEADER, FailCode.NO_LEADER, FailCode.OUTCOME_UNKNOWN):
                    raise UnavailableError(failure.message) from None
            await backoff.wait()

    async def subscribe(self, product_id: str, from_sequence: int, on_events: Callable[[Events], None], on_lost: Lost) -> int:
        """See `Backend.subscribe`."""
        try:
            connection = await self._connect()
            first = await connection.subscribe(product_id, from_sequence, on_events, lambda failure: on_lost(failure.message))
        except ConnectionLost as error:
            raise UnavailableError(str(error)) from None
        if connection.closed.is_set():
            on_lost(connection.close_reason)
        else:
            self._lost[product_id] = on_lost  # replaces the previous one: a product has one subscription per connection
        return first

    async def _report_loss(self, connection: NativeConnection) -> None:
        """Report the end of a connection to its subscriptions. Each connection has one such task."""
        await connection.closed.wait()
        lost, self._lost = self._lost, {}
        for on_lost in lost.values():
            on_lost(connection.close_reason)

    @contextlib.asynccontextmanager
    async def replay(self, product_id: str, from_sequence: int) -> AsyncIterator[AsyncIterator[list[AnyEvent]]]:
        """See `Backend.replay`."""
        try:
            connection = await NativeConnection.open(self._address, client="gateway replay")
        except ConnectionLost as error:
            raise UnavailableError(str(error)) from None
        arrived: _Arrived = asyncio.Queue()
        watch = asyncio.create_task(_end_with(connection, arrived))
        try:
            await connection.subscribe(product_id, from_sequence, lambda events: _queue(connection, arrived, events))
            yield _drain(connection, arrived)
        except ConnectionLost as error:
            raise UnavailableError(str(error)) from None
        finally:
            watch.cancel()
            await connection.close()

    @property
    def follows_keys(self) -> bool:
        """See `Backend.follows_keys`."""
        return self._connection is not None and not self._connection.closed.is_set()

    def follow_keys(self, on_change: KeysCallback) -> None:
        """See `Backend.follow_keys`."""
        self._on_keys = on_change

    async def close(self) -> None:
        """See `Backend.close`."""
        self._deadlines.close()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._connection is not None:
            await self._connection.close()
        await self._cluster.close()

    async def _connect(self) -> NativeConnection:
        """Return the open connection to the engine, and reconnect if it has ended. Raises ConnectionLost,
        RequestFailed.
        """
        if self._connection is not None and not self._connection.closed.is_set():
            return self._connection
        async with self._connecting:
            if self._connection is None or self._connection.closed.is_set():
                connection = await NativeConnection.open(self._address, client="gateway")
                try:
                    await connection.follow_keys(self._on_keys)
                except BaseException:
                    connection.abort("API keys could not be followed")
                    raise
                self._connection = connection
                self._watcher = asyncio.create_task(self._report_loss(connection))
                self._on_keys([])  # keys may have changed in the meantime
            return self._connection


def _too_many(failure: RequestFailed) -> ApiError:
    """Return the answer to commands that the leader refused because its queue is full or a limit is used up."""
    headers = {"Retry-After": "1"}
    if failure.code is FailCode.OVERLOADED:
        return ApiError(429, "Too many requests: the queue is full and nothing was done", headers=headers)
    return ApiError(429, "Private rate limit exceeded", reason="rate_limit", detail=failure.message, headers=headers)


async def _end_with(connection: NativeConnection, arrived: _Arrived) -> None:
    """End the stream when the connection ends."""
    await connection.closed.wait()
    arrived.put_nowait(None)


def _queue(connection: NativeConnection, arrived: _Arrived, events: Events) -> None:
    """Queue events for a reader that catches up. Reading pauses while enough of them wait."""
    arrived.put_nowait(events.events)
    if arrived.qsize() >= REPLAY_FRAMES_MAX and connection.reading:
        connection.pause_reading()


async def _drain(connection: NativeConnection, arrived: _Arrived) -> AsyncIterator[list[AnyEvent]]:
    """Return events as they arrive. Raises UnavailableError when the connection ends."""
    while (events := await arrived.get()) is not None:
        if arrived.empty() and not connection.reading:
            connection.resume_reading()
        yield events
    raise UnavailableError("the events could not be read to the end")
