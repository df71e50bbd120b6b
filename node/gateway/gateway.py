"""The parts of a gateway process: creates and connects them, and polls the node's status for them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node.config.settings import NodeConfig
from node.errors import QuorumbookError
from node.gateway.auth import Authenticator, Revocation
from node.gateway.backend import Backend
from node.gateway.balances import Balances
from node.gateway.catalogue import Catalogue
from node.gateway.feeds import Feeds
from node.gateway.limits import Limits, SocketLimits
from node.gateway.metrics import Metrics
from node.gateway.replays import Replays
from node.keys import addresses
from node.keys.addresses import Network
from node.keys.encryption import ClusterKeys
from node.native.protocol import NodeStatus, StatusQuery
from node.system import tasks as background

if TYPE_CHECKING:
    from node.gateway.history_source import HistorySource

log = logging.getLogger(__name__)

Holders = dict[tuple[str, str], object]
"""By account and session tag, the WebSocket connection whose end cancels orders: the latest one that requested it at
this gateway. A replaced connection whose end is noticed late therefore cancels nothing.
"""

STATUS_INTERVAL = 0.5
"""Seconds between polls. An idle node does nothing else for its gateway. If the leader has changed since the last poll,
the engine says so when a command reaches it.
"""

STATUS_AGE_MAX = 0.02
"""Maximum age in seconds of the status when a read begins. The sequence in the answer is no older."""

STATUS_TIMEOUT = 1.0
"""Seconds without an answer after which the engine counts as not reachable."""


class Monitor:
    """Keeps the node's latest `NodeStatus`; None while the engine does not answer."""

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self.status: NodeStatus | None = None
        self._backend = backend
        self._metrics = metrics
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def recent(self) -> NodeStatus | None:
        """Return the status, at most `STATUS_AGE_MAX` seconds old. Concurrent callers share one query."""
        async with self._lock:
            if self.age() > STATUS_AGE_MAX:
                await self.poll()
            return self.status

    async def now(self) -> NodeStatus | None:
        """Return the status, queried after this call. Concurrent callers share one query, so that at most one is under way."""
        begun = asyncio.get_running_loop().time()
        async with self._lock:
            if self._asked_at < begun:
                await self.poll()
            return self.status

    def age(self) -> float:
        """Return the seconds since the latest status was queried."""
        return asyncio.get_running_loop().time() - self._asked_at

    async def poll(self) -> None:
        """Ask the engine for its status once."""
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                self.status = await self._backend.query(StatusQuery())
        except (QuorumbookError, TimeoutError) as error:
            if self.status is not None:
                log.warning("the engine does not answer: %r", error)
            self.status = None
        self._asked_at = begun  # only now, because until the answer arrives the previous status is the latest
        self._metrics.engine(self.status)

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(STATUS_INTERVAL)

    def unready(self) -> list[str]:
        """Return the reasons why the node should not get traffic, or an empty list."""
        status = self.status
        if status is None:
            return ["the engine does not answer"]
        reasons = []
        if not status.leader_id:
            reasons.append("no leader is known")
        if not status.quorum:
            reasons.append("no majority of the nodes is reachable")
        if not status.ready:
            reasons.append("not caught up with the leader")
        reasons += [
            f"cluster key {number} is missing, and API keys are encrypted under it" for number in status.cluster_keys_missing
        ]
        return reasons


@dataclass
class Gateway:
    """The parts that handlers use. `build` makes it. `history` is None if the node keeps no history. `holders` are the
    connections whose end cancels orders.
    """

    config: NodeConfig
    backend: Backend
    catalogue: Catalogue
    auth: Authenticator
    metrics: Metrics
    monitor: Monitor
    feeds: Feeds
    limits: Limits
    socket_limits: SocketLimits
    balances: Balances
    replays: Replays
    revocation: Revocation
    proxies: tuple[Network, ...]
    history: HistorySource | None
    holders: Holders = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def trusts(self, peer: str) -> bool:
        """Return whether a connection comes from a trusted proxy, which forwards the requests of any client."""
        return bool(self.proxies) and addresses.allowed(peer, self.proxies)

    async def start(self) -> None:
        """Start the background tasks."""
        await self.monitor.poll()
        runs = (self.monitor.run(), self.feeds.run_timers(), self.feeds.run_status(), self.balances.run())
        self._tasks = [asyncio.create_task(run) for run in runs]

    async def close(self) -> None:
        """Stop the background tasks, sessions first."""
        await self.revocation.close()
        await self.feeds.close()
        await background.cancel(self._tasks)
        await self.backend.close()
        if self.history is not None:
            self.history.close()


def build(config: NodeConfig, backend: Backend, worker: int = 0) -> Gateway:
    """Return the gateway of a node over `backend`."""
    metrics = Metrics(config.node_id, worker)
    catalogue = Catalogue(backend)
    history = _history(config)
    auth = Authenticator(backend, config.admin, ClusterKeys(config.cluster_key_path), config.http.signature_age_max)
    feeds = Feeds(backend, catalogue, metrics)
    return Gateway(
        config,
        backend,
        catalogue,
        auth,
        metrics,
        Monitor(backend, metrics),
        feeds,
        Limits(config.http.key_rate, config.http.address_rate),
        SocketLimits(config.http.address_rate),
        Balances(backend, catalogue, feeds.sessions, feeds.occupied),
        Replays(2 * config.http.signature_age_max),
        Revocation(auth, feeds.sessions),
        addresses.networks(config.http.trusted_proxies),
        history,
    )


def _history(config: NodeConfig) -> HistorySource | None:
    """Return the node's history, or None if none is configured."""
    if not config.history.enabled:
        return None
    from node.gateway.history_source import (
        HistorySource,
    )  # the database's library takes a moment that no other gateway should pay for

    return HistorySource(config)
