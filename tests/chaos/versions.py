"""A change of the version, node by node, before the level changes. It needs no root, but the repository's history."""

from __future__ import annotations

import asyncio

from loadtest.rolling import FORMER, PRESENT, ROOT, command_of
from node.deployment.local_cluster import LocalCluster
from tests.chaos.errors import NotPossibleError, UnsafeError
from tests.chaos.faults import Fault
from tests.chaos.stage import Stage

BETWEEN_ACKS = 100
"""Commands acknowledged between two nodes."""


class RollingUpgrade(Fault):
    """Every node of the released version is stopped gracefully and started as the present one, the leader last. The
    level stays.
    """

    name = "rolling-upgrade"
    seconds = (0.0, 0.1)
    on_former = True
    before, after = FORMER, PRESENT

    async def begin(self, stage: Stage) -> None:
        if (await _versions(stage)) != {self.before}:
            await _roll(stage, self.before)
        self.nodes = await _roll(stage, self.after)


class RollingDowngrade(RollingUpgrade):
    """The way back: every node of the present version, at the former level, becomes one of the released version."""

    name = "rolling-downgrade"
    before, after = PRESENT, FORMER


async def _roll(stage: Stage, version: str) -> list[str]:
    """Restart every node with a version. Returns the nodes in the order in which they changed.

    Raises:
        UnsafeError: a node is not of that version afterwards, or has changed its level.
    """
    if stage.former is None:
        raise NotPossibleError("the nodes did not begin as the released version")
    stage.cluster = LocalCluster(stage.cluster.layout.directory, command=command_of(stage.former if version == FORMER else ROOT))
    nodes = [*await stage.followers(), await stage.leader()]
    for node_id in nodes:
        await asyncio.to_thread(stage.cluster.restart, node_id)
        await stage.all_vote()
        await stage.traded(BETWEEN_ACKS)
    if (found := await _versions(stage)) != {version}:
        raise UnsafeError(f"the nodes are of {', '.join(sorted(found))}, not of {version}")
    levels = {status.level for status in (await stage.scenario.watcher.statuses()).values() if status is not None}
    if version == PRESENT and levels != {FORMER}:
        raise UnsafeError(f"the nodes are at {', '.join(sorted(levels))}, not at the level {FORMER}")
    return nodes


async def _versions(stage: Stage) -> set[str]:
    statuses = await stage.scenario.watcher.statuses()
    return {status.software.partition(" ")[0] for status in statuses.values() if status is not None}
