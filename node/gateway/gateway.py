"""What a gateway process consists of, put together once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from node.config import NodeConfig
from node.gateway.auth import Authenticator
from node.gateway.backend import Backend
from node.gateway.catalogue import Catalogue
from node.gateway.feeds import Feeds
from node.gateway.limits import Limits
from node.gateway.metrics import Metrics
from node.gateway.monitor import Monitor


@dataclass
class Gateway:
    """The parts that handlers use. Made by `build`."""

    config: NodeConfig
    backend: Backend
    catalogue: Catalogue
    auth: Authenticator
    metrics: Metrics
    monitor: Monitor
    feeds: Feeds
    limits: Limits
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Begin the work in the background."""
        await self.monitor.poll()
        self._tasks = [asyncio.create_task(self.monitor.run()), asyncio.create_task(self.feeds.run_timers())]

    async def close(self) -> None:
        """End it, sessions first."""
        await self.feeds.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backend.close()


def build(config: NodeConfig, backend: Backend, worker: int = 0) -> Gateway:
    """The gateway of a node over `backend`."""
    metrics = Metrics(config.node_id, worker)
    catalogue = Catalogue(backend)
    return Gateway(
        config,
        backend,
        catalogue,
        Authenticator(backend, config.admin, config.http.signature_age_max),
        metrics,
        Monitor(backend, metrics),
        Feeds(backend, catalogue, metrics),
        Limits(config.http.key_rate, config.http.address_rate),
    )
