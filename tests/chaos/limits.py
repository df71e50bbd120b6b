"""Faults by limits on a node's descriptors, memory or processor time. They need no root."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from pathlib import Path

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage

SPARE_DESCRIPTORS = 2
MEMORY_SPARE = 4 * 1024 * 1024
RUN_SECONDS, STAND_SECONDS = 0.01, 0.09
"""A node that gets a tenth of a core."""


class FewDescriptors(Fault):
    """A node's engine can open hardly any descriptors for a while. Nothing that the engine has written may be in doubt."""

    name = "few-descriptors"
    seconds = (2.0, 4.0)

    def __init__(self) -> None:
        super().__init__()
        self._limits: tuple[int, int] | None = None
        self._pid = 0

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.any_node()]
        self._pid = stage.engine(self.nodes[0]) or 0
        used = max(int(name) for name in os.listdir(f"/proc/{self._pid}/fd"))
        self._limits = resource.prlimit(self._pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (used + 1 + SPARE_DESCRIPTORS, self._limits[1]))

    async def end(self, stage: Stage) -> None:
        if self._limits is not None and Path(f"/proc/{self._pid}").exists():
            resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._limits)


class LittleMemory(Fault):
    """A node's engine gets no more memory. It may continue or stop, but its state must be right."""

    name = "little-memory"
    seconds = (2.0, 4.0)

    async def begin(self, stage: Stage) -> None:
        self.nodes = (await stage.followers())[:1]
        pid = stage.engine(self.nodes[0]) or 0
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY_SPARE
        resource.prlimit(pid, resource.RLIMIT_AS, (most, most))

    async def repair(self, stage: Stage) -> None:
        for node_id in self.nodes:
            await stage.kill(node_id)
            await stage.start(node_id)


class SlowNode(Fault):
    """A follower's engine gets a tenth of a core for a while. The cluster must not wait for it."""

    name = "slow-node"
    seconds = (0.0, 0.1)
    turns = 40

    async def begin(self, stage: Stage) -> None:
        self.nodes = (await stage.followers())[:1]
        for _ in range(self.turns):
            stage.signal_engine(self.nodes[0], signal.SIGSTOP)
            await asyncio.sleep(STAND_SECONDS)
            stage.signal_engine(self.nodes[0], signal.SIGCONT)
            await asyncio.sleep(RUN_SECONDS)
        stage.scenario.check_tasks()

    async def end(self, stage: Stage) -> None:
        for node_id in self.nodes:
            stage.signal_engine(node_id, signal.SIGCONT)
