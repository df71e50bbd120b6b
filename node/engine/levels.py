"""The level of a node, which is that of its data, and the node's hello to its peers about levels."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from cluster.errors import ClusterError
from cluster.raft import Raft
from cluster.wire import FORMER_PROTOCOL, Hello, TlsWire
from node.config.settings import NodeConfig
from node.engine.replicated_engine import ReplicatedEngine
from node.migration.found import first_abi, look
from node.migration.keeping import keep
from snapshots.errors import SnapshotError
from snapshots.levels.level import ACCEPTED, OWN, V0_2_0, Level, SetLevel
from snapshots.levels.states import level_with

log = logging.getLogger(__name__)


def runs_as_it_is(data: Path) -> bool:
    """Whether this software can run the levels of a data directory. If so, no migration is needed.

    Raises:
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data cannot be trusted.
    """
    abi = look(data).abi
    return abi is None or abi in ACCEPTED


def of_data(data: Path) -> Level:
    """The level with which a node starts on a data directory: the level of its newest snapshot, else of its log's first
    entry, else of this software.

    Raises:
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data cannot be trusted.
        LevelError: the data has a level that this software does not support.
    """
    abi = first_abi(data)
    return OWN if abi is None else level_with(abi)


class Changed:
    """Acts on a change of the level: it disconnects peers that cannot run the new level, and keeps the data of the
    previous level for a rollback.
    """

    def __init__(self, config: NodeConfig, wire: TlsWire) -> None:
        self._config = config
        self._wire = wire

    def changed(self, change: SetLevel, index: int) -> None:
        """The entry at `index` has changed the level."""
        self._wire.drop_former()
        asyncio.get_running_loop().run_in_executor(None, self._keep, change, index)

    def _keep(self, change: SetLevel, index: int) -> None:
        """Runs in a thread."""
        try:
            kept = keep(self._config.data_path, self._config.node_id, change, index)
        except (OSError, SnapshotError, ClusterError) as error:
            log.error("the data of level %s is not kept, there is no way back on this node: %s", change.old, error)
            return
        if kept:
            log.info("the data of level %s is kept until: quorumbook migrate --finalize", change.old)


class Joining:
    """The levels in this node's hello, and those that its peers report.

    A node without a snapshot and without entries has no level. It adopts the level of the log that it receives.
    """

    def __init__(self, machine: ReplicatedEngine) -> None:
        self._machine = machine
        self.raft: Raft | None = None

    @property
    def _has_nothing(self) -> bool:
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
