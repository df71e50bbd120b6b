"""Periodic work of an engine: it records that it serves, loads the dataset, expires orders, and takes snapshots when
they are due.

A node takes a snapshot after so many commands, after so much time with commands in it, or after so many bytes of log.
The bytes, and a bound on log entries that carry no commands, are counted where the log is (`cluster.settings`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.raft import Raft
from node.config.settings import NodeConfig
from node.engine.modes import Mode
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.service import EngineService
from node.engine.snapshot_port import SnapshotPort
from node.system import tasks as background

INTERVAL = 0.1
"""Seconds between two runs before the node is ready, and on a leader that applies entries: orders expire as exactly as
this.
"""

INTERVAL_IDLE = 1.0
"""The same on a follower, which only looks whether a snapshot is due, and on a leader with nothing to expire in this
time that has applied no entry for `QUIET_RUNS` runs. The first pause may be shorter.
"""

QUIET_RUNS = 5


class Housekeeping:
    """Runs every `INTERVAL` seconds in the engine's event loop, and when the role of the node changes. An exception in
    it ends the node, as in every callback of the engine.

    Args:
        settled: called after each snapshot.
    """

    def __init__(
        self,
        config: NodeConfig,
        service: EngineService,
        raft: Raft,
        snapshots: SnapshotPort,
        machine: ReplicatedEngine,
        settled: Callable[[], object],
    ) -> None:
        self._service = service
        self._raft = raft
        self._snapshots = snapshots
        self._machine = machine
        self._settled = settled
        self._taken = snapshots.taken
        self._schedule = SnapshotSchedule(config)
        self._timer: asyncio.TimerHandle | None = None
        self._sequence = 0
        self._quiet = 0
        """Runs since `_sequence`, the number of applied commands, last changed."""

    def start(self) -> None:
        """Start, with a first run at once."""
        self._raft.on_role_change.append(self._role_changed)
        self._service.on_answered = self._answered
        self._run()

    def stop(self) -> None:
        """Stop the periodic work."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        """Do the periodic work, and choose when it is due again."""
        self._look()
        sequence = self._machine.engine.sequence
        self._quiet = self._quiet + 1 if sequence == self._sequence else 0
        self._sequence = sequence
        self._schedule_next(INTERVAL_IDLE if self._idle() else INTERVAL)

    def _idle(self) -> bool:
        """Return whether the work may be done at the longer interval."""
        if self._service.modes.current is not Mode.READY:
            return False
        return not self._raft.is_leader or (self._quiet >= QUIET_RUNS and not self._service.expires_within(INTERVAL_IDLE))

    def _role_changed(self, _role: str, _leader_id: str) -> None:
        self._quiet = 0
        if self._timer is not None:
            self._schedule_next(0.0)

    def _answered(self) -> None:
        """Run soon after an entry of this leader: it may have begun work, or entered orders that expire soon."""
        if self._quiet >= QUIET_RUNS and self._timer is not None:
            self._quiet = 0
            self._schedule_next(INTERVAL)

    def _schedule_next(self, seconds: float) -> None:
        """Schedule the next round. When nothing is due, idle nodes run their rounds at common times."""
        if self._timer is not None:
            self._timer.cancel()
        if seconds == INTERVAL_IDLE:
            self._timer = background.at_next(INTERVAL_IDLE, self._run)
        else:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._run)

    def _look(self) -> None:
        """Enter the next mode, expire orders, and request a snapshot when one is due."""
        if self._service.modes.current is Mode.INITIALISING and self._raft.status().ready:
            self._when_ready()
        self._service.expire()
        applied = self._machine.engine.sequence - self._snapshots.sequence
        if self._schedule.due(applied, time.monotonic() - self._snapshots.since):
            self._raft.request_snapshot()
        if self._taken != self._snapshots.taken:
            self._taken = self._snapshots.taken
            self._settled()

    def _when_ready(self) -> None:
        """Load the dataset, or enter the mode READY."""
        seeding = self._service.seeding
        if seeding is None:
            self._service.modes.enter(Mode.READY)
        elif self._raft.is_leader:
            seeding.go_on()


def staggered(value: int, config: NodeConfig) -> int:
    """Return a number between the configured one and 1.5 times it, different on each node.

    A node pauses while its state is frozen. If all nodes paused at the same entry, no node could lead.
    """
    rank = [node.node_id for node in config.nodes].index(config.node_id)
    return value + value * rank // (2 * len(config.nodes))


class SnapshotSchedule:
    """Knows when the next snapshot is due."""

    def __init__(self, config: NodeConfig) -> None:
        self._commands = staggered(config.snapshot.every_commands, config)
        self._seconds = config.snapshot.every_seconds

    def due(self, commands: int, seconds: float) -> bool:
        """Return whether a snapshot is due `commands` applied commands and `seconds` after the latest, or after the start."""
        return commands >= self._commands or (0 < self._seconds <= seconds and commands > 0)
