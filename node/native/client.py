"""The cluster as one address: `ClusterClient` finds the leader, follows it, and sends the same commands until they are
answered.

Commands carry ids, and a node answers a known id with the first outcome. Sending a command again is therefore always
safe, and a failover delays the caller instead of failing the call.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from node.config.settings import NodeAddress
from node.errors import ConnectionLost, OtherVersionError, RequestFailed
from node.keys.credentials import Credentials, sign
from node.native.connection import EndCallback, EventsCallback, NativeConnection, Querier
from node.native.feed_reader import FeedReader
from node.native.protocol import AnyQuery, ControlAction, FailCode, LeaderHint, LevelReport, NodeStatus, StatusQuery
from node.system import tasks as background
from node.system.tasks import Backoff
from snapshots.levels.level import by_abi
from statemachine.commands import AnyCommand
from statemachine.events import AnyEvent, AnyOutcome

__all__ = [
    "FULL",
    "ClusterClient",
    "ConnectionLost",
    "Credentials",
    "EndCallback",
    "EventsCallback",
    "NativeConnection",
    "Querier",
    "RequestFailed",
    "sign",
]

BACKOFF_MIN = 0.01
BACKOFF_MAX = 0.2
"""Seconds between attempts (`Backoff`). A new leader is usually elected in under a second, and a cluster without a
leader is not flooded.
"""

PING_INTERVAL = 0.5
PING_TIMEOUT = 1.0
"""Seconds between status requests on a connection, and the timeout of their answers. A connection without an answer is
closed, and its pending requests go to another node. Commands have no such timeout, because a long queue is not a reason
to send them again.
"""

_SAME_NODE = frozenset({FailCode.OVERLOADED, FailCode.BUSY, FailCode.RATE_LIMITED})
"""Failures that may be over at the same node a moment later."""

FULL = frozenset({FailCode.OVERLOADED, FailCode.RATE_LIMITED})
"""Failures of a leader that did nothing because it had too much to do, for everybody or for one account."""

RETRIED = frozenset({FailCode.NOT_LEADER, FailCode.NO_LEADER, FailCode.OUTCOME_UNKNOWN, FailCode.STOPPING, *_SAME_NODE})
"""Failures that another node, or the same node later, may not have."""

_Result = TypeVar("_Result")
_Attempt = Callable[[NativeConnection], Awaitable[_Result]]


class ClusterClient:
    """Sends commands to the leader, whichever node it is. Many tasks of one event loop may use it; they share one
    connection per node.

    It learns from the connected nodes which nodes join and leave the cluster.

    Commands:     submit
    Reads:        query, events
    Operation:    control, add_member, remove_member, connection, close

    Args:
        addresses: node id -> "host:port" or "unix:/path"; one member of the cluster is enough at the start.
        deadline: seconds after which a call fails, unless the call gives its own deadline.
        client: the name of this client in the nodes' logs.
        abi: the ABI that the leader must have. A leader with another schema could misread the commands, so nothing is
            sent to it. "" allows any.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        tls: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
        deadline: float = 8.0,
        client: str = "",
        abi: str = "",
    ) -> None:
        assert addresses, "a cluster has at least one node"
        self._addresses = dict(addresses)
        self._tls = tls
        self._credentials = credentials
        self._deadline = deadline
        self._client = client
        self._abi = abi
        self._connections: dict[str, NativeConnection] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._order = list(self._addresses)
        self._closed = False
        self.leader_id = self._order[0]

    async def submit(
        self,
        commands: Sequence[AnyCommand],
        deadline: float | None = None,
        on_resend: Callable[[], None] = lambda: None,
        *,
        patient: bool = True,
    ) -> list[AnyOutcome]:
        """Apply commands on the leader, and return their outcomes in order. Each attempt sends the same commands with
        the same ids.

        Args:
            on_resend: called before the commands are sent again while the outcome of an earlier attempt is unknown.
            patient: whether to wait for a leader whose queue is full or whose limit of the account is used up. If not,
                OVERLOADED and RATE_LIMITED are raised at once, unless the outcome of an earlier attempt is unknown.

        Raises:
            RequestFailed: NO_LEADER (certainly not applied) or OUTCOME_UNKNOWN (perhaps applied) when the deadline
                passed; any other code at once.
        """
        fixed = list(commands)
        final = frozenset() if patient else FULL
        return await self._on_leader(lambda connection: connection.submit(fixed), deadline, on_resend, final)

    async def _query(self, query: AnyQuery, linearizable: bool = False) -> Any:
        return await self._on_leader(lambda connection: connection.query(query, linearizable), None)

    @property
    def query(self) -> Querier:
        """Read from the leader, or without a leader from any node that answers. A linearizable read waits for a leader."""
        return self._query

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the nodes that this client knows."""
        return dict(self._addresses)

    async def query_node(self, node_id: str, query: AnyQuery) -> Any:
        """Read from one node, leader or not.

        Raises:
            ConnectionLost: the node does not answer, or its address is unknown.
            RequestFailed: the node refused.
        """
        ask: Any = (await self.connection(node_id)).query
        return await ask(query)

    async def control(self, action: ControlAction, node_id: str = "", *, about: str = "") -> bool:
        """Ask a node (empty: the leader) to take a snapshot or to transfer leadership. `about` names the node that
        shall lead.
        """
        if node_id:
            return await (await self.connection(node_id)).control(action, about)
        return await self._on_leader(lambda connection: connection.control(action, about), None)

    async def add_member(self, address: NodeAddress, *, read_only: bool = False, deadline: float | None = None) -> int:
        """Make a node a member; see `protocol.AddMember`. Raises as `submit`."""
        return await self._on_leader(lambda connection: connection.add_member(address, read_only=read_only), deadline)

    async def remove_member(self, node_id: str, *, force: bool = False, deadline: float | None = None) -> int:
        """Remove a member; see `protocol.RemoveMember`. Raises as `submit`."""
        return await self._on_leader(lambda connection: connection.remove_member(node_id, force=force), deadline)

    async def change_level(
        self, version: str, *, check: bool = False, earlier: bool | None = None, deadline: float | None = None
    ) -> LevelReport:
        """Change the cluster's level; see `protocol.ChangeLevel`. Raises as `submit`; CONFLICT also if the leader's
        version has no levels.
        """

        async def attempt(connection: NativeConnection) -> LevelReport:
            await _check_levels(connection)
            return await connection.change_level(version, check=check, earlier=earlier)

        return await self._on_leader(attempt, deadline)

    async def events(self, product_id: str, from_sequence: int = 0) -> AsyncGenerator[list[AnyEvent], None]:
        """Yield a product's events from `from_sequence` on (0: from now), without gap or repetition. They come from any
        node; if that node fails, from another one.

        Raises:
            RequestFailed: TOO_OLD (no node keeps that sequence), NOT_FOUND (no node knows the product), or another
                refusal.
        """
        reader = FeedReader(self._open, lambda: self._order, product_id, from_sequence)
        try:
            while True:
                yield await reader.next()
        finally:
            await reader.close()

    async def connection(self, node_id: str) -> NativeConnection:
        """Return the connection to a node, which is opened if necessary. Do not close it: it is shared.

        Raises:
            ConnectionLost, RequestFailed: as `NativeConnection.open`.
        """
        if self._closed:
            raise ConnectionLost("the client is closed")
        lock = self._opening.setdefault(node_id, asyncio.Lock())
        async with lock:
            current = self._connections.get(node_id)
            if current is not None and not current.closed.is_set():
                return current
            opened = await self._open(node_id)
            self._connections[node_id] = opened
            return opened

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        connections = list(self._connections.values())
        self._connections.clear()
        await asyncio.gather(*(connection.close() for connection in connections))
        await background.cancel(self._watchers)  # a feed that is still open would otherwise never end them

    async def _open(self, node_id: str) -> NativeConnection:
        """Open a connection with a node. Raises ConnectionLost."""
        if node_id not in self._addresses:
            raise ConnectionLost(f"the address of node {node_id!r} is not known")
        opened = await NativeConnection.open(
            self._addresses[node_id], tls=self._tls, credentials=self._credentials, client=self._client
        )
        background.keep(self._watchers, _watch(opened, self._learn))
        return opened

    async def _on_leader(
        self,
        attempt: _Attempt[_Result],
        deadline: float | None,
        on_resend: Callable[[], None] = lambda: None,
        final: frozenset[FailCode] = frozenset(),
    ) -> _Result:
        """Make attempts at the leader until one succeeds or the deadline passes."""
        loop = asyncio.get_running_loop()
        seconds = self._deadline if deadline is None else deadline
        until = loop.time() + seconds
        search = _Search(self)
        while True:
            try:
                async with asyncio.timeout_at(until):
                    connection = await self.connection(search.node_id)
                    await self._check_version(connection)
                    if search.unknown:
                        on_resend()
                    search.sent = True
                    return await attempt(connection)
            except (RequestFailed, ConnectionLost, TimeoutError) as error:
                if isinstance(error, RequestFailed) and error.code in final and not search.unknown:
                    raise
                pause = search.after(error)
            if loop.time() + pause >= until:
                raise search.failure(seconds)
            await asyncio.sleep(pause)

    async def _check_version(self, connection: NativeConnection) -> None:
        """Check the schema of a node before anything is sent to it.

        Raises:
            OtherVersionError: the node leads, so no other node can help.
            RequestFailed: NOT_LEADER, so that the next node is tried.
        """
        welcome = connection.welcome
        if self._abi in ("", welcome.abi, *welcome.levels) or by_abi(welcome.abi) is not None:
            return
        text = (
            f"{welcome.node_id} runs another version ({welcome.software}, ABI {welcome.abi[:12]}; this one has {self._abi[:12]})"
        )
        if (await connection.query(StatusQuery())).role == "leader":
            raise OtherVersionError(FailCode.NO_LEADER, f"{text} and leads: nothing was sent to it")
        raise RequestFailed(FailCode.NOT_LEADER, text)

    def _follow(self, hint: LeaderHint | None) -> bool:
        """Apply a hint. Returns True if it names another node than the presumed leader."""
        if hint is None or hint.node_id == self.leader_id:
            return False
        if not self._know(hint.node_id, hint.native):
            return False
        self.leader_id = hint.node_id
        return True

    def _know(self, node_id: str, address: str) -> bool:
        """Add a node. Returns False if its address is unknown. An address given by the caller is kept, because it may
        be another route to the node.
        """
        if node_id not in self._addresses:
            if not address:
                return False
            self._addresses[node_id] = address
        if node_id not in self._order:
            self._order.append(node_id)
        return True

    def _learn(self, status: NodeStatus) -> None:
        """Update the members from a node's status. Former members are not tried again. A node that has not caught up is
        ignored, because its list may be old.
        """
        for member in status.members:
            self._know(member.node_id, member.native)
        if status.ready and status.members:
            members = {member.node_id for member in status.members}
            self._order = [node_id for node_id in self._order if node_id in members]

    def _after(self, node_id: str) -> str:
        """Return the node that is tried after `node_id`."""
        if node_id not in self._order:
            return self._order[0]
        return self._order[(self._order.index(node_id) + 1) % len(self._order)]


class _Search:
    """One call's search for the leader: the next node, the pause, and what is known of the outcome."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._backoff = Backoff(BACKOFF_MIN, BACKOFF_MAX)
        self.unknown = False
        self._redirected = False
        self.sent = False
        self._last: Exception | None = None
        self.node_id = client.leader_id

    def after(self, error: RequestFailed | ConnectionLost | TimeoutError) -> float:
        """Choose the next node after `error`. Returns the seconds to pause before it. Raises `error` if no other node
        would help.
        """
        self._last = error
        hint: LeaderHint | None = None
        if isinstance(error, RequestFailed):
            if error.code not in RETRIED or isinstance(error, OtherVersionError):
                raise error
            self.unknown |= error.code == FailCode.OUTCOME_UNKNOWN
            hint = error.leader
        else:
            self.unknown |= self.sent
        self.sent = False
        client = self._client
        if hint is not None and client._follow(hint) and not self._redirected:
            self._redirected = True
            self.node_id = client.leader_id
            return 0.0
        self._redirected = False
        self._choose(error)
        return self._backoff.next_s()

    def _choose(self, error: Exception) -> None:
        """Choose the node for the next attempt by the error of the last one."""
        client = self._client
        if isinstance(error, RequestFailed) and error.code in _SAME_NODE:
            return
        if client.leader_id == self.node_id:
            client.leader_id = client._after(self.node_id)
        self.node_id = client.leader_id

    def failure(self, seconds: float) -> RequestFailed:
        """Return the error for the caller when the deadline has passed."""
        if not self.unknown and isinstance(self._last, RequestFailed) and self._last.code is FailCode.RATE_LIMITED:
            return self._last
        code = FailCode.OUTCOME_UNKNOWN if self.unknown else FailCode.NO_LEADER
        knowledge = "it may have been applied" if self.unknown else "it was not applied"
        return RequestFailed(code, f"no answer from a leader within {seconds:g} s ({self._last}); {knowledge}")


async def _check_levels(connection: NativeConnection) -> None:
    """Check that a node's version can change the level. Version 0.2.0 cannot, and would refuse the request as
    unreadable.

    Raises:
        RequestFailed: CONFLICT: the node cannot, and it leads. NOT_LEADER: the node cannot, and another one leads.
    """
    welcome = connection.welcome
    if welcome.levels:
        return
    status: NodeStatus = await connection.query(StatusQuery())
    if status.role != "leader":
        raise RequestFailed(FailCode.NOT_LEADER, f"{welcome.node_id} does not lead", status.leader)
    raise RequestFailed(
        FailCode.CONFLICT,
        f"{welcome.node_id}: leads, and runs version {welcome.software.partition(' ')[0]}, which cannot change the level: install the "
        "new version there, and start it again",
    )


async def _watch(connection: NativeConnection, learn: Callable[[NodeStatus], None]) -> None:
    """Close a connection whose node has stopped answering. Its status answers are passed on."""
    while not connection.closed.is_set():
        try:
            async with asyncio.timeout(PING_INTERVAL):
                await connection.closed.wait()
        except TimeoutError:
            if connection.reading and not await _answers(connection, learn):
                connection.abort(f"the node did not answer for {PING_TIMEOUT:g} s")


async def _answers(connection: NativeConnection, learn: Callable[[NodeStatus], None]) -> bool:
    """Return whether a node answers a query for its status in time."""
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            learn(await connection.query(StatusQuery()))
    except (TimeoutError, ConnectionLost):
        return False
    except RequestFailed:
        return True
    return True
