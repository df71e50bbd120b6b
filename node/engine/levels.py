"""The level of a node, which is that of its data, and the node's hello to its peers about levels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from cluster.errors import ClusterError
from cluster.log import segment_abis, segment_name
from cluster.raft import Raft
from cluster.storage import RealDisk
from cluster.wire import FORMER_PROTOCOL, Hello, TlsWire
from node.config.settings import NodeConfig
from node.engine.replicated_engine import ReplicatedEngine
from node.migration.contents import LOG, SNAPSHOTS, first_abi, look
from node.migration.keeping import forget, keep
from snapshots import durable
from snapshots.errors import SnapshotError
from snapshots.levels.level import ACCEPTED, OWN, V0_2_0, Level, SetLevel, is_earlier
from snapshots.levels.states import level_with
from snapshots.naming import snapshot_paths
from snapshots.seal import read_seal

log = logging.getLogger(__name__)


def runs_as_it_is(data: Path) -> bool:
    """Return whether this software can run the levels of a data directory. If so, no migration is needed.

    Raises:
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data cannot be trusted.
    """
    abi = look(data).abi
    return abi is None or abi in ACCEPTED


def of_data(data: Path) -> Level:
    """Return the level with which a node starts on a data directory: the level of its newest snapshot, else of its
    log's first entry, else of this software.

    Raises:
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data cannot be trusted.
        LevelError: the data has a level that this software does not support.
    """
    abi = first_abi(data)
    return OWN if abi is None else level_with(abi)


class Changed:
    """Acts on a change of the level. On the way to a later level it disconnects peers that cannot run it, and keeps the
    data of the previous level for a rollback. On the way to an earlier one it removes what was kept of that level,
    because a rollback would now undo more than the upgrade, and asks for a snapshot.
    """

    def __init__(self, config: NodeConfig, wire: TlsWire) -> None:
        self._config = config
        self._wire = wire
        self.request_snapshot: Callable[[], None] = lambda: None
        self._executor = ThreadPoolExecutor(1, "data of levels")

    def changed(self, change: SetLevel, index: int) -> None:
        """Act on the entry at `index`, which has changed the level."""
        earlier = is_earlier(change.to, change.old)
        if earlier:
            self.request_snapshot()
        else:
            self._wire.drop_former()
        self._executor.submit(self._forget if earlier else self._keep, change, index)

    def _keep(self, change: SetLevel, index: int) -> None:
        """Keep the data of the previous level. Runs in a thread."""
        try:
            kept = keep(self._config.data_path, self._config.node_id, change, index)
        except (OSError, SnapshotError, ClusterError) as error:
            log.error("the data of level %s is not kept, there is no way back on this node: %s", change.old, error)
            return
        if kept:
            log.info("the data of level %s is kept until: quorumbook migrate --finalize", change.old)

    def _forget(self, change: SetLevel, _index: int) -> None:
        """Remove the data that was kept of the earlier level. Runs in a thread."""
        try:
            forget(self._config.data_path, change.to.abi)
        except OSError as error:
            log.error("what was kept for a rollback to level %s cannot be removed: %s", change.to, error)


class LogDisk(RealDisk):
    """The disk of a node's log, from which segments can be removed before the log that lists them asks for it."""

    _removed: frozenset[str] = frozenset()

    def remove_covered(self, names: Sequence[str]) -> None:
        """Archive or delete segments that a snapshot covers, oldest first, so that no gap is left at any time.

        Raises:
            OSError: a segment cannot be moved or deleted. The later ones are still there.
        """
        for name in names:
            super().archive(name)
            self._removed |= {name}
        self.sync_names()

    def archive(self, name: str) -> None:
        """See `RealDisk`. Does nothing for a segment that was removed already."""
        if not self._was_removed(name):
            super().archive(name)

    def remove(self, name: str) -> None:
        """See `RealDisk`. Does nothing for a segment that was removed already."""
        if not self._was_removed(name):
            super().remove(name)

    def _was_removed(self, name: str) -> bool:
        found = name in self._removed
        self._removed -= {name}
        return found


def leave_to_former(config: NodeConfig, level: Level, disk: LogDisk) -> None:
    """Remove log segments and snapshots of a later level that the newest snapshot covers, because software of an
    earlier level would refuse them. Without them it can start on the data, even after a kill. Called at the start,
    after each snapshot and at the stop, in the thread that writes the log. Does nothing where the log still needs such
    a segment, or at this software's own level.

    Raises:
        OSError, SnapshotError, ClusterError: they cannot be read or removed.
    """
    snapshots = config.data_path / SNAPSHOTS
    if level == OWN or not (paths := snapshot_paths(snapshots)):
        return
    newest = read_seal(paths[-1]).manifest
    if newest.abi != level.abi:
        return
    abis = segment_abis(config.data_path / LOG)
    names = sorted(abis)  # by their first entry
    later = [place for place, name in enumerate(names) if abis[name] != level.abi]
    if later:
        following = names[later[-1] + 1 :]
        if not following or following[0] > segment_name(newest.index + 1):
            return
        disk.remove_covered(names[: later[-1] + 1])
        log.info(
            "version %s can start on this node's data: log entries and snapshots of a later level are removed", level.version
        )
    for path in paths[:-1]:
        if read_seal(path).manifest.abi != level.abi:
            durable.remove(path)


class Joining:
    """The levels in this node's hello, and those that its peers report.

    A node without a snapshot and without entries has no level. It adopts the level of the log that it receives.
    """

    def __init__(self, machine: ReplicatedEngine) -> None:
        self._machine = machine
        self.raft: Raft | None = None

    @property
    def _has_nothing(self) -> bool:
        """Return whether this node has neither state nor log."""
        raft = self.raft
        if raft is None or self._machine.engine.sequence:
            return False
        status = raft.status()
        return not status.snapshot_index and status.last_log_index <= 1

    def introduce(self, hello: Hello) -> Hello:
        """Return this node's current hello. Only peers of version 0.2.0 get one in protocol 1."""
        abi = self._machine.level.abi
        if hello.protocol == FORMER_PROTOCOL:
            return msgspec.structs.replace(hello, abi=V0_2_0.abi if self._has_nothing else abi)
        log_abi = self.raft.abi_at_start if self.raft is not None and not self._has_nothing else ""
        return msgspec.structs.replace(hello, abi=abi, accepts=sorted(ACCEPTED), log_abi=log_abi)

    def met(self, hello: Hello) -> None:
        """Record the hello of a peer with a common protocol."""
        abi = hello.abi if hello.protocol == FORMER_PROTOCOL else hello.log_abi
        if abi and abi != self._machine.level.abi and self._has_nothing:
            self._machine.begin_at(level_with(abi))
