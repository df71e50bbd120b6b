"""Reads a product's events from any available node. `ClusterClient.events` uses it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from node.errors import ConnectionLost, RequestFailed
from node.native.connection import NativeConnection
from node.native.protocol import Events, FailCode, StatusQuery
from node.system.tasks import Backoff
from statemachine.events import AnyEvent

IDLE_CHECK = 1.0
"""Seconds without an event after which the reader checks whether the node is still connected to the cluster."""

PENDING_MAX = 20_000
"""Events that may wait for a slow consumer. With more, the reader stops reading from the node."""

PAUSE_MIN = 0.02
PAUSE_MAX = 0.5
"""Seconds between rounds of attempts at all nodes (`Backoff`)."""

_ABSENT = frozenset({FailCode.TOO_OLD, FailCode.NOT_FOUND})
_PASSING = frozenset({FailCode.STOPPING, FailCode.OVERLOADED, FailCode.NO_LEADER, FailCode.NOT_LEADER})


class FeedReader:
    """One product's events in order, without gap or repetition, over connections of its own.

    `open_node(node_id)` opens a connection for this reader only. `nodes` returns the nodes to read from now, at least
    one. `from_sequence` 0 means from now on.
    """

    def __init__(
        self,
        open_node: Callable[[str], Awaitable[NativeConnection]],
        nodes: Callable[[], Sequence[str]],
        product_id: str,
        from_sequence: int,
    ) -> None:
        self._open_node = open_node
        self._known = nodes
        self._nodes = deque(nodes())
        self._product_id = product_id
        self._next = from_sequence
        self._connection: NativeConnection | None = None
        self._pending: deque[list[AnyEvent]] = deque()
        self._count = 0
        self._reading = True
        self._wake = asyncio.Event()
        self._ended: RequestFailed | None = None

    @property
    def node_id(self) -> str:
        """The present node, or the one that is tried next."""
        return self._nodes[0]

    async def next(self) -> list[AnyEvent]:
        """Return the next events, at least one. Waits until there are some.

        Raises:
            RequestFailed: no node can serve the next event (TOO_OLD), none knows the product (NOT_FOUND), or a refusal
                such as FORBIDDEN.
        """
        while not self._pending:
            if self._connection is None:
                await self._attach()
            await self._wait()
        events = self._pending.popleft()
        self._count -= len(events)
        if not self._reading and self._count < PENDING_MAX // 2 and self._connection is not None:
            self._reading = True
            self._connection.resume_reading()
        return events

    async def close(self) -> None:
        """Close the connection, if one is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _attach(self) -> None:
        """Subscribe on the first node that serves the next event."""
        backoff = Backoff(PAUSE_MIN, PAUSE_MAX)
        while True:
            absent: list[RequestFailed] = []
            self._refresh()
            for _ in range(len(self._nodes)):
                try:
                    return await self._subscribe(self._nodes[0])
                except (ConnectionLost, TimeoutError):
                    pass
                except RequestFailed as error:
                    if error.code in _ABSENT:
                        absent.append(error)
                    elif error.code not in _PASSING:
                        raise
                self._nodes.rotate(-1)
            if len(absent) == len(self._nodes):
                raise absent[0]
            await backoff.wait()

    def _refresh(self) -> None:
        """Add new nodes, drop removed ones, and keep the order."""
        known = self._known()
        stay = [node_id for node_id in self._nodes if node_id in known]
        self._nodes = deque([*stay, *(node_id for node_id in known if node_id not in stay)])

    async def _subscribe(self, node_id: str) -> None:
        """Subscribe at a node, from the next event on."""
        connection = await self._open_node(node_id)
        self._ended = None
        self._reading = True
        self._connection = connection
        try:
            start = await connection.subscribe(self._product_id, self._next, self._on_events, self._on_end)
        except BaseException:
            await self.close()
            raise
        self._next = self._next or start

    async def _wait(self) -> None:
        """Wait until there are events, or the node is abandoned."""
        connection = self._connection
        assert connection is not None
        self._wake.clear()
        closed = asyncio.ensure_future(connection.closed.wait())
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            if not self._pending and self._ended is None:
                await asyncio.wait((closed, woken), timeout=IDLE_CHECK, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
            woken.cancel()
        if self._pending:
            return
        if self._ended is not None or connection.closed.is_set() or not await self._serves(connection):
            await self.close()
            self._nodes.rotate(-1)

    async def _serves(self, connection: NativeConnection) -> bool:
        """Return whether the node still follows the cluster. An isolated node has no new events and does not notice that."""
        try:
            status = await connection.query(StatusQuery())
        except (ConnectionLost, RequestFailed):
            return False
        return status.ready or len(self._nodes) == 1

    def _on_events(self, message: Events) -> None:
        """Take the new events of a message. A gap ends the connection."""
        events = message.events
        expected = self._next or events[0].product_sequence
        skip = expected - events[0].product_sequence
        if skip < 0:
            assert self._connection is not None
            self._connection.abort(
                f"the node skipped events {expected} to {events[0].product_sequence - 1} of {self._product_id}"
            )
            return
        fresh = events[skip:] if skip else events
        if not fresh:
            return
        self._next = expected + len(fresh)
        self._pending.append(fresh)
        self._count += len(fresh)
        self._wake.set()
        if self._count > PENDING_MAX and self._reading and self._connection is not None:
            self._reading = False
            self._connection.pause_reading()

    def _on_end(self, error: RequestFailed) -> None:
        self._ended = error
        self._wake.set()
