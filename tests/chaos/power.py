"""Faults of disks under real processes: power loss, slow disks, syncs that fail once, and syncs that report success
without an effect. They need root and FUSE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from node.system.processes import ENGINE_PID_FILE, locked_pid
from tests.chaos.errors import UnsafeError
from tests.chaos.faults import Fault
from tests.chaos.forgetful.control import Control
from tests.chaos.forgetful.disk import ForgetfulDisk
from tests.chaos.stage import Stage

LOG = "log-"
"""How the names of log segments begin."""

TRADED = 150
SLOW_P99_SECONDS = 0.25
"""With one slow disk of three, answers must come earlier than any sync of that disk: it takes 0.3 to 0.5 s."""


class _OnForgetfulDisks(Fault):
    """Some nodes run on forgetful disks during the fault, and are restarted for it."""

    def __init__(self) -> None:
        super().__init__()
        self.disks: dict[str, ForgetfulDisk] = {}

    async def chosen(self, stage: Stage) -> Sequence[str]:
        """Return the nodes."""
        return [await stage.any_node()]

    async def begin(self, stage: Stage) -> None:
        ForgetfulDisk.check()
        for node_id in await self.chosen(stage):
            disk = ForgetfulDisk(stage.data(node_id))
            await asyncio.to_thread(stage.cluster.stop, [node_id])
            self.nodes.append(node_id)
            self.disks[node_id] = disk
            stage.at_end.callback(_give_up, stage, node_id, disk)
            await asyncio.to_thread(disk.insert)
            await stage.start(node_id)
            await stage.all_vote()
        await stage.traded(TRADED)
        await self.strike(stage)

    async def strike(self, stage: Stage) -> None:
        """Make the fault."""

    async def lose_power(self, stage: Stage, random: Random | None) -> None:
        """Kill these nodes at the same time. Their disks keep what was synced, and with `random` also parts of the
        rest.
        """
        await stage.kill(*self.nodes)
        for disk in self.disks.values():
            await asyncio.to_thread(disk.lose_power, random)

    async def end(self, stage: Stage) -> None:
        for disk in self.disks.values():
            disk.control(None)

    async def repair(self, stage: Stage) -> None:
        await super().repair(stage)
        await stage.all_vote()
        await stage.traded(TRADED)
        for node_id, disk in self.disks.items():
            await asyncio.to_thread(stage.cluster.stop, [node_id])
            await asyncio.to_thread(disk.remove)
            await stage.start(node_id)
            await stage.all_vote()


class PowerLoss(_OnForgetfulDisks):
    """One node loses power under load, and everything that it had not synced. It must come back with its vote."""

    name = "power-loss"

    async def strike(self, stage: Stage) -> None:
        await self.lose_power(stage, None)


class PowerLossTorn(PowerLoss):
    """The same, but a random part of what was not synced is kept, and the last write is torn."""

    name = "power-loss-torn"

    async def strike(self, stage: Stage) -> None:
        await self.lose_power(stage, stage.random)


class PowerLossAll(PowerLoss):
    """All nodes lose power at once. Every acknowledged command must have been synced on two of them."""

    name = "power-loss-all"
    quorum = False

    async def chosen(self, stage: Stage) -> Sequence[str]:
        return list(stage.cluster.node_ids)


class PowerLossAllTorn(PowerLossTorn):
    """The same, but random parts of what was not synced are kept."""

    name = "power-loss-all-torn"
    quorum = False

    async def chosen(self, stage: Stage) -> Sequence[str]:
        return list(stage.cluster.node_ids)


class UnsyncedThenPowerLoss(PowerLossAll):
    """A follower is killed between the write and the sync of log entries, and started again. It reads the entries from
    the page cache. Then all nodes lose power. What the follower acknowledged after its start must have been synced by
    then (reliability review, R1).
    """

    name = "unsynced-then-power-loss"

    async def strike(self, stage: Stage) -> None:
        follower = (await stage.followers())[0]
        self.disks[follower].control(Control(prefix=LOG, holds=True))
        await asyncio.sleep(0.3)
        killed = asyncio.ensure_future(stage.kill(follower))
        await asyncio.sleep(0.2)
        self.disks[follower].control(None)  # a process that waits for a sync dies when the sync ends
        await killed
        await stage.start(follower)
        await stage.all_vote()
        await self.lose_power(stage, None)


class SlowDisk(_OnForgetfulDisks):
    """One node's disk takes 0.3 to 0.5 s for each sync. The cluster must not wait for it."""

    name = "slow-disk"
    seconds = (4.0, 6.0)

    async def chosen(self, stage: Stage) -> Sequence[str]:
        return (await stage.followers())[:1]

    async def strike(self, stage: Stage) -> None:
        for disk in self.disks.values():
            disk.control(Control(delay=(0.3, 0.5)))
        recorder = stage.scenario.recorder
        begin = len(recorder.latencies())
        await asyncio.sleep(stage.random.uniform(*self.seconds))
        stage.scenario.check_tasks()
        latencies = sorted(recorder.latencies()[begin:])
        if not latencies or latencies[int(len(latencies) * 0.99)] > SLOW_P99_SECONDS:
            p99 = latencies[int(len(latencies) * 0.99)] if latencies else float("inf")
            raise UnsafeError(f"p99 of {len(latencies)} answers is {p99:.3f} s while {self.nodes[0]} has a slow disk")


class SlowLeaderDisk(SlowDisk):
    """The same for the leader's disk: two of three syncs are a majority without the leader's own."""

    name = "slow-leader-disk"

    async def chosen(self, stage: Stage) -> Sequence[str]:
        return [await stage.leader()]


class SyncFails(_OnForgetfulDisks):
    """A sync of the log fails once with EIO. What is on the disk is then unknown: the node must stop, and may start
    again.
    """

    name = "sync-fails-once"

    async def strike(self, stage: Stage) -> None:
        node_id = self.nodes[0]
        log = stage.scenario.access.layout.log_file(node_id)
        before = log.stat().st_size
        self.disks[node_id].control(Control(prefix=LOG, failures=1))
        await stage.down(node_id, 30.0)
        log_text = log.read_bytes()[before:].decode("utf-8", "replace")
        if "Input/output error" not in log_text or "must stop" not in log_text:
            raise UnsafeError(f"{node_id} ended without saying that it must stop: {log_text[-1000:]}")


class LyingDisk(_OnForgetfulDisks):
    """A follower's disk reports syncs that had no effect, and loses power. Nothing is lost while the two others live.
    The node comes back without entries that it had acknowledged, so it must not vote before it has them again, or must
    refuse to start.
    """

    name = "lying-disk"

    async def chosen(self, stage: Stage) -> Sequence[str]:
        return (await stage.followers())[:1]

    async def strike(self, stage: Stage) -> None:
        self.disks[self.nodes[0]].control(Control(lies=True))
        await stage.traded(3 * TRADED)
        await self.lose_power(stage, None)
        self.disks[self.nodes[0]].control(None)

    async def repair(self, stage: Stage) -> None:
        node_id = self.nodes[0]
        await asyncio.to_thread(self.disks.pop(node_id).remove)
        await stage.start(node_id)
        if not await _runs(stage, node_id):
            await stage.new_disk(node_id)
        await stage.all_vote()


def _give_up(stage: Stage, node_id: str, disk: ForgetfulDisk) -> None:
    """Unmount a disk that a failed fault left mounted."""
    if disk.mounted:
        stage.cluster.kill(node_id)
        disk.remove()


async def _runs(stage: Stage, node_id: str, seconds: float = 5.0) -> bool:
    """Return whether a started node still runs after a while."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        if stage.cluster.pid(node_id) is None:
            return False
        if locked_pid(stage.data(node_id) / ENGINE_PID_FILE) is not None:
            statuses = await stage.cluster.status()
            if (status := statuses.get(node_id)) is not None and status.ready:
                return True
        await asyncio.sleep(0.1)
    return stage.cluster.pid(node_id) is not None
