"""The statuses of all nodes of a cluster, and waiting until the cluster is in a given state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from loadtest.access import ClusterAccess
from loadtest.errors import DeadlineError
from node.errors import ConnectionLost, RequestFailed
from node.native.client import ClusterClient
from node.native.connection import NativeConnection
from node.native.protocol import AnyQuery, BookQuery, BookView, NodeStatus, OrdersQuery, StatusQuery
from statemachine.events import OrderState

ANSWER_SECONDS = 1.0
"""Seconds without an answer after which a node counts as down."""

LONG = 3_600 * 10**9
"""Nanoseconds."""

Statuses = Mapping[str, NodeStatus | None]
"""The status of each node, None if it does not answer."""


class Watcher:
    """Keeps a connection to each node, as the operator, and sends queries over it."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        self._connections: dict[str, NativeConnection] = {}

    async def close(self) -> None:
        """Close every connection."""
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            await connection.close()

    async def statuses(self) -> dict[str, NodeStatus | None]:
        """Query the statuses of all nodes concurrently."""
        names = list(self._access.natives)
        found = await asyncio.gather(*(self.status(name) for name in names))
        return dict(zip(names, found, strict=True))

    async def status(self, node_id: str) -> NodeStatus | None:
        """Return a node's status, or None if it does not answer."""
        answer = await self._ask(node_id, StatusQuery())
        return answer if isinstance(answer, NodeStatus) else None

    async def book(self, node_id: str, product_id: str) -> BookView | None:
        """Return the best prices of a product at a node, or None if it does not answer."""
        answer = await self._ask(node_id, BookQuery(product_id, 1))
        return answer if isinstance(answer, BookView) else None

    async def _ask(self, node_id: str, query: AnyQuery) -> object:
        """Return the answer of a node to a query, or None."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                connection = self._connections.get(node_id)
                if connection is None:
                    connection = await self._access.connect(node_id)
                    self._connections[node_id] = connection
                return await connection.query(query)
        except (ConnectionLost, OSError, TimeoutError):
            lost = self._connections.pop(node_id, None)
            if lost is not None:
                await lost.close()
            return None
        except RequestFailed:
            return None

    async def wait(
        self, wanted: Callable[[Statuses], bool], what: str, seconds: float, interval: float = 0.05
    ) -> dict[str, NodeStatus | None]:
        """Wait until `wanted` is true of the statuses, and return them.

        Raises:
            DeadlineError: it is not true within `seconds`. The text names `what` and the last statuses.
        """
        end = time.monotonic() + seconds
        while True:
            statuses = await self.statuses()
            if wanted(statuses):
                return statuses
            if time.monotonic() > end:
                seen = "; ".join(_short(name, status) for name, status in statuses.items())
                raise DeadlineError(f"no {what} within {seconds:g} s: {seen}")
            await asyncio.sleep(interval)

    async def wait_leader(self, seconds: float, other_than: str = "") -> str:
        """Wait for a ready leader that is not `other_than`, and return its id.

        Raises:
            DeadlineError: none within `seconds`.
        """
        statuses = await self.wait(lambda seen: bool(leader_of(seen, other_than)), "leader", seconds, 0.02)
        return leader_of(statuses, other_than)

    async def wait_equal(self, seconds: float) -> dict[str, NodeStatus | None]:
        """Wait until all nodes are ready and have applied the same entries, and return their statuses.

        Raises:
            DeadlineError: not within `seconds`.
        """
        return await self.wait(all_caught_up, "common position in the log of all nodes", seconds)


async def reached(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until `condition` holds. Returns whether it did within `seconds`."""
    end = time.monotonic() + seconds
    while True:
        if condition():
            return True
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)


def leader_of(statuses: Statuses, other_than: str = "") -> str:
    """Return the ready leader with the highest term, or ""."""
    found = [
        status
        for status in statuses.values()
        if status and status.role == "leader" and status.ready and status.node_id != other_than
    ]
    return max(found, key=lambda status: status.term).node_id if found else ""


def all_caught_up(statuses: Statuses) -> bool:
    """Return whether every node answers, is ready, and has applied the same entries."""
    found = [status for status in statuses.values() if status is not None and status.ready]
    return len(found) == len(statuses) and len({status.applied_index for status in found}) == 1


async def none_leaving(client: ClusterClient, account_ids: Iterable[str], seconds: float) -> None:
    """Wait until no open order of these accounts expires within the next hour. Without trading the books then do not
    change.

    Raises:
        DeadlineError: an order still expires after `seconds`.
    """
    end = time.monotonic() + seconds
    for account_id in account_ids:
        while True:
            orders: list[OrderState] = await client.query(OrdersQuery(account_id, limit=1_000), linearizable=True)
            leaving = [order.order_id for order in orders if 0 < order.expires_at < time.time_ns() + LONG]
            if not leaving:
                break
            if time.monotonic() > end:
                raise DeadlineError(f"orders {leaving} of {account_id} did not leave within {seconds:g} s")
            await asyncio.sleep(0.05)


def _short(name: str, status: NodeStatus | None) -> str:
    """Return a node's status in one line, for the error of a time limit."""
    if status is None:
        return f"{name} down"
    return (
        f"{name} {status.role} term {status.term} applied {status.applied_index} sequence {status.sequence} ready {status.ready}"
    )
