"""Faults of processes and disks. Each fault begins, ends, and repairs what it broke.

`begin` makes the fault and returns its node. `end` removes what would otherwise last (a stopped process, a full disk) and
is called in any case. `repair` starts the nodes that are down and checks how they come back.
"""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from pathlib import Path

from cluster.log import scan
from loadtest.watch import reached
from tests.chaos.disks import BadDisk, FullDisk
from tests.chaos.errors import UnsafeError
from tests.chaos.stage import Stage, flip_bit


class Fault(ABC):
    """A fault.

    Attributes:
        name: as in `--only` and in the table.
        quorum: whether there is a majority all the time, so that the cluster must continue to serve.
        seconds: its shortest and longest duration.
        on_former: whether its cluster begins as the released version before this one.
    """

    name: str
    quorum = True
    seconds = (0.3, 2.0)
    on_former = False

    def __init__(self) -> None:
        self.nodes: list[str] = []

    @abstractmethod
    async def begin(self, stage: Stage) -> None:
        """Begin the fault. Raises `NotPossibleError` if this machine cannot make it."""

    async def end(self, stage: Stage) -> None:
        """End the fault. It is called also after a failed `begin`."""
        return

    async def repair(self, stage: Stage) -> None:
        """Bring back the nodes that are down."""
        await stage.start(*(node_id for node_id in self.nodes if stage.cluster.pid(node_id) is None))


class KillLeader(Fault):
    """SIGKILL of the leader."""

    name = "kill-leader"

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.leader()]
        await stage.kill(*self.nodes)


class KillFollower(Fault):
    """SIGKILL of a follower."""

    name = "kill-follower"

    async def begin(self, stage: Stage) -> None:
        self.nodes = (await stage.followers())[:1]
        await stage.kill(*self.nodes)


class KillTwo(Fault):
    """SIGKILL of two nodes at once: there is no majority until one is back."""

    name = "kill-two"
    quorum = False

    async def begin(self, stage: Stage) -> None:
        self.nodes = stage.random.sample(stage.cluster.node_ids, 2)
        await stage.kill(*self.nodes)


class KillAll(Fault):
    """SIGKILL of all nodes at once."""

    name = "kill-all"
    quorum = False

    async def begin(self, stage: Stage) -> None:
        self.nodes = list(stage.cluster.node_ids)
        await stage.kill(*self.nodes)


class FreezeLeader(Fault):
    """SIGSTOP of the leader's engine: its connections stay open, and nothing answers. Then SIGCONT."""

    name = "freeze-leader"
    seconds = (0.1, 10.0)

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await self.choose(stage)]
        stage.signal_engine(self.nodes[0], signal.SIGSTOP)

    async def choose(self, stage: Stage) -> str:
        """Return the node whose engine is frozen."""
        return await stage.leader()

    async def end(self, stage: Stage) -> None:
        for node_id in self.nodes:
            stage.signal_engine(node_id, signal.SIGCONT)


class FreezeFollower(FreezeLeader):
    """SIGSTOP of a follower's engine, then SIGCONT."""

    name = "freeze-follower"

    async def choose(self, stage: Stage) -> str:
        return (await stage.followers())[0]


class LostDisk(Fault):
    """A node's data directory is deleted. The start must be refused, and --rejoin must bring the node back."""

    name = "lost-disk"

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.any_node()]
        await stage.kill(*self.nodes)

    async def repair(self, stage: Stage) -> None:
        await stage.new_disk(self.nodes[0])


class FlipSnapshot(Fault):
    """A bit of the newest snapshot's files flips while the node is down."""

    name = "flip-snapshot"

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.any_node()]
        await stage.snapshot_of(self.nodes[0])
        await stage.kill(*self.nodes)

    async def repair(self, stage: Stage) -> None:
        node_id = self.nodes[0]
        newest = stage.snapshots(node_id)[-1]
        path = stage.random.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
        flip_bit(path, stage.random.randrange(path.stat().st_size), stage.random.randrange(8))
        await stage.refused(node_id, str(path))
        await stage.new_disk(node_id)


class FlipLogMiddle(Fault):
    """A bit of an entry with later ones flips while the node is down. The start must name the file and the offset."""

    name = "flip-log-middle"

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.any_node()]
        log = stage.data(self.nodes[0]) / "log"
        await reached(lambda: len(_offsets(_last_segment(log))) >= 5, 10.0)
        await stage.kill(*self.nodes)

    async def repair(self, stage: Stage) -> None:
        node_id = self.nodes[0]
        path = _segment_of_entries(stage.data(node_id) / "log", 3)
        offsets = _offsets(path)
        number = stage.random.randrange(len(offsets) - 2)
        at = stage.random.randrange(offsets[number], offsets[number + 1])
        flip_bit(path, at, stage.random.randrange(8))
        await stage.refused(node_id, path.name, f"offset {offsets[number]}")
        await stage.new_disk(node_id)


class FlipLogEnd(Fault):
    """A bit of the log's last record flips while the node is down. The node must come back without a vote, or not at
    all.
    """

    name = "flip-log-end"
    DOUBT = "this node may have lost entries that it acknowledged"

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.any_node()]
        log = stage.data(self.nodes[0]) / "log"
        await reached(lambda: len(_offsets(_last_segment(log))) >= 2, 10.0)
        await stage.kill(*self.nodes)

    async def repair(self, stage: Stage) -> None:
        node_id = self.nodes[0]
        path = _segment_of_entries(stage.data(node_id) / "log", 1)
        last = path == _last_segment(path.parent)
        size = path.stat().st_size
        flip_bit(path, stage.random.randrange(_offsets(path)[-1], size), stage.random.randrange(8))
        if not last:
            await stage.refused(node_id, path.name)
            return await stage.new_disk(node_id)
        log = stage.scenario.access.layout.log_file(node_id)
        before = log.stat().st_size
        await stage.start(node_id)
        await stage.wait(lambda seen: (status := seen[node_id]) is not None and status.ready and status.voter, f"{node_id} back")
        log_text = log.read_bytes()[before:].decode("utf-8", "replace")
        if self.DOUBT not in log_text:
            raise UnsafeError(f"{node_id} came back with a vote though the last record of {path} was damaged: {log_text[-1000:]}")
        return None


class DiskFull(Fault):
    """A node's data directory is on a file system of its own that becomes full. The node must stop, and start again
    when there is space.
    """

    name = "disk-full"
    seconds = (0.3, 1.0)
    make: type[FullDisk] = FullDisk
    last_words = "No space left on device"

    async def begin(self, stage: Stage) -> None:
        node_id = await stage.any_node()
        self.disk = self.make(stage.data(node_id))
        self.disk.check()
        self.nodes = [node_id]
        await _onto(stage, node_id, self.disk)
        log = stage.scenario.access.layout.log_file(node_id)
        before = log.stat().st_size
        await asyncio.to_thread(self.disk.fail)
        await stage.down(node_id, 30.0)
        log_text = log.read_bytes()[before:].decode("utf-8", "replace")
        if self.last_words not in log_text or "must stop" not in log_text:
            raise UnsafeError(f"{node_id} ended without saying that it must stop ({self.last_words}): {log_text[-1000:]}")

    async def end(self, stage: Stage) -> None:
        if self.nodes:
            await stage.kill(*self.nodes)
            await asyncio.to_thread(self.disk.remove)


class DiskError(DiskFull):
    """A disk that answers writes with EIO: the node must stop. It comes back on a new disk."""

    name = "disk-error"

    make = BadDisk
    last_words = "Input/output error"

    async def repair(self, stage: Stage) -> None:
        await stage.new_disk(self.nodes[0])


class RollingRestart(Fault):
    """Every node is stopped gracefully and started again, one after the other, the leader last."""

    name = "rolling-restart"
    seconds = (0.0, 0.1)

    async def begin(self, stage: Stage) -> None:
        leader = await stage.leader()
        self.nodes = [*await stage.followers(), leader]
        for node_id in self.nodes:
            await asyncio.to_thread(stage.cluster.restart, node_id)
            await stage.all_vote()


class ReplaceNode(Fault):
    """A node is killed for good and its directory deleted; it is the leader in half of the cases. A new node replaces
    it, by membership changes.
    """

    name = "replace-node"

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.any_node()]
        await stage.kill(*self.nodes)

    async def repair(self, stage: Stage) -> None:
        self.nodes.append(await stage.replace(self.nodes[0]))


async def _onto(stage: Stage, node_id: str, disk: FullDisk) -> None:
    """Stop a node, move its data directory to another disk, and start it."""
    await asyncio.to_thread(stage.cluster.stop, [node_id])
    await asyncio.to_thread(disk.insert)
    await stage.start(node_id)
    await stage.all_vote()
    await stage.traded(100)


def _last_segment(log: Path) -> Path:
    return max(log.glob("log-*.seg"))


def _offsets(path: Path) -> list[int]:
    """Return the offsets of a segment's records."""
    return scan(path.name, path.read_bytes(), last=True)[2]


def _segment_of_entries(log: Path, count: int) -> Path:
    """Return the newest segment with at least this many entries."""
    return max(path for path in log.glob("log-*.seg") if len(_offsets(path)) >= count)
