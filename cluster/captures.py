"""This node's own snapshots: when one is due, and compacting the log when it is durable."""

from __future__ import annotations

from cluster.ports import CaptureState, Clock, SnapshotMark, Snapshots
from cluster.raft_log import RaftLog
from cluster.seams import Core
from cluster.settings import RaftSettings
from cluster.transfer import Senders

CAPTURE_RETRY = 10.0
"""Seconds from a failed snapshot to the next attempt. It is not urgent, because the log still has everything."""


class Captures:
    """At most one snapshot is being written at a time, and none while one is being sent to a peer.

    Attributes:
        index: the index of the newest durable snapshot, or 0.
        wanted: whether a snapshot was requested.
    """

    def __init__(
        self,
        settings: RaftSettings,
        raft_log: RaftLog,
        core: Core,
        snapshots: Snapshots,
        senders: Senders,
        *,
        clock: Clock,
        index: int,
    ) -> None:
        self._settings = settings
        self._raft_log = raft_log
        self._core = core
        self._snapshots = snapshots
        self._senders = senders
        self._clock = clock
        self._capturing = 0
        self._not_before = 0.0
        self._bytes_at_snapshot = raft_log.bytes_appended
        self.index = index
        self.wanted = False

    @property
    def under_way(self) -> bool:
        """Whether a snapshot is being written."""
        return self._capturing > 0

    def begin_if_due(self) -> bool:
        """Begin a snapshot if one is due. Returns whether a new log entry is needed first, because the newest snapshot
        is damaged and the log has no entry after it.
        """
        if self._capturing or self._clock() < self._not_before:
            return False
        applied, damaged = self._core.applied_index, self._snapshots.damaged
        behind = applied - self.index
        grown = self._raft_log.bytes_appended - self._bytes_at_snapshot
        due = behind >= self._settings.snapshot_entries or (grown >= self._settings.snapshot_bytes and behind > 1)
        if not (due or damaged or self.wanted) or self._senders.any:
            return False
        if behind > 0 and applied > self._raft_log.first_index:
            self.wanted = False
            self._begin()
            return False
        return damaged and self._raft_log.last_index == self.index

    def _begin(self) -> None:
        """Begin a snapshot of the current state."""
        last = self._raft_log.entry(self._core.applied_index)
        previous = self._raft_log.entry(last.index - 1)
        self._capturing = last.index
        self._bytes_at_snapshot = self._raft_log.bytes_appended
        self._raft_log.sync()
        self._snapshots.capture(SnapshotMark(last, previous, self._raft_log.memberships.at(last.index)))

    def finish(self) -> None:
        """Compact the log when the snapshot is durable. During the transfer of a snapshot to a peer, the entries after
        that snapshot are kept.
        """
        if not self._capturing or self._senders.any:
            return
        state = self._snapshots.poll()
        if state is CaptureState.RUNNING:
            return
        index, self._capturing = self._capturing, 0
        if state is CaptureState.DONE:
            self.index = max(self.index, index)
            self._raft_log.compact_to(max(self._raft_log.first_index, index - 1 - self._settings.trailing_entries))
        if state is CaptureState.FAILED:
            self._not_before = self._clock() + CAPTURE_RETRY
