"""What the node looks like from its gateway: the engine's status, polled."""

from __future__ import annotations

import asyncio
import logging

from node.errors import QuorumbookError
from node.gateway.backend import Backend
from node.gateway.metrics import Metrics
from node.native.protocol import NodeStatus, StatusQuery

log = logging.getLogger(__name__)

INTERVAL = 0.2
"""Seconds between polls."""

AGE_MAX = 0.02
"""Seconds that a status may be old when a read begins: so fresh is the sequence that its answer names."""

TIMEOUT = 1.0
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
        """The status, at most `AGE_MAX` old. Callers that wait together share one."""
        async with self._lock:
            if self.age() > AGE_MAX:
                await self.poll()
            return self.status

    async def now(self) -> NodeStatus | None:
        """The status, asked for after this call. Callers that wait together share one: the engine is asked once at a time, however many they are."""
        begun = asyncio.get_running_loop().time()
        async with self._lock:
            if self._asked_at < begun:
                await self.poll()
            return self.status

    def age(self) -> float:
        """Seconds since the status was asked for."""
        return asyncio.get_running_loop().time() - self._asked_at

    async def poll(self) -> None:
        """Ask once."""
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(TIMEOUT):
                self.status = await self._backend.query(StatusQuery())
        except (QuorumbookError, TimeoutError) as error:
            if self.status is not None:
                log.warning("the engine does not answer: %r", error)
            self.status = None
        self._asked_at = begun  # only now: until the answer is there the status is as old as before
        self._metrics.engine(self.status)

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.poll()
            await asyncio.sleep(INTERVAL)

    def unready(self) -> list[str]:
        """Why the node should not be sent traffic; empty when it should."""
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
