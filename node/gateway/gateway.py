"""Creates and connects the parts of a gateway process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node.config.settings import NodeConfig
from node.gateway.auth import Authenticator, Replays, Revocation
from node.gateway.backend import Backend
from node.gateway.balances import Balances
from node.gateway.catalogue import Catalogue
from node.gateway.disconnects import Holders
from node.gateway.feeds import Feeds
from node.gateway.health import Monitor
from node.gateway.limits import Limits, SocketLimits
from node.gateway.metrics import Metrics
from node.keys import addresses
from node.keys.addresses import Network
from node.keys.encryption import ClusterKeys

if TYPE_CHECKING:
    from node.gateway.history_source import HistorySource


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
        """Whether a connection comes from a trusted proxy, which forwards the requests of any client."""
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        Balances(backend, catalogue, feeds.sessions),
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
