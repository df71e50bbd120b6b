"""The cluster layer with one protection switched off at a time: what the simulation must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cluster import messages as m
from cluster.guard import Guard
from cluster.journal import DurableJournal, as_tuple
from cluster.log import DurableLog
from cluster.ports import LogEntry, SnapshotMark
from tests.simulation.disk import SimDisk

Patch = pytest.MonkeyPatch


def no_trimming(patch: Patch) -> None:
    """Entries go to PySyncObj as they come, overlapping or not."""

    def append_entries(self: Guard, peer: str, message: m.AppendEntries) -> None:
        if self._from_leader(peer, message.term):
            self.told_commit = message.commit_index
            self.transport.deliver(
                peer,
                {
                    "type": "append_entries",
                    "term": message.term,
                    "commit_index": message.commit_index,
                    "prevLogIdx": message.prev_index,
                    "prevLogTerm": message.prev_term,
                    "entries": [as_tuple(entry) for entry in message.entries],
                },
            )

    patch.setattr(Guard, "_append_entries", append_entries)


def no_reset_to_commit(patch: Patch) -> None:
    """A mismatch is answered as PySyncObj does: one entry earlier, or the own end."""

    def mismatch(self: Guard, peer: str, message: m.AppendEntries) -> None:
        self._bare_heartbeat(peer, message.term, min(message.commit_index, self._journal.commit_index))
        here = self._journal.term_at(message.prev_index) is not None
        self._reply(peer, message.prev_index if here else self._journal.last_index + 1, reset=True, success=False)

    patch.setattr(Guard, "_mismatch", mismatch)


def no_commit_clamp(patch: Patch) -> None:
    """The leader's commit index is taken over also for entries that its message did not verify."""

    def held(self: Guard, peer: str, message: m.AppendEntries, verified: int) -> None:
        self._bare_heartbeat(peer, message.term, message.commit_index)
        self._reply(peer, verified + 1, reset=False, success=True)

    def mismatch(self: Guard, peer: str, message: m.AppendEntries) -> None:
        self._bare_heartbeat(peer, message.term, message.commit_index)
        self._reply(peer, self._journal.commit_index + 1, reset=True, success=False)

    patch.setattr(Guard, "_held", held)
    patch.setattr(Guard, "_mismatch", mismatch)


def no_reply_term(patch: Patch) -> None:
    """Answers count whatever term they are of."""

    def append_reply(self: Guard, peer: str, message: m.AppendReply) -> None:
        if self.core.role == "leader":
            self._pass_reply(peer, message.next_index, reset=message.reset, success=message.success)

    patch.setattr(Guard, "_append_reply", append_reply)


def no_sync(patch: Patch) -> None:
    """Nothing is synced before a message leaves, and a disk that contradicts itself is believed."""
    patch.setattr(DurableJournal, "_has_forgotten", lambda _self, _end: False)
    patch.setattr(DurableJournal, "sync", lambda _self: None)


def no_vote_sync(patch: Patch) -> None:
    """The log is synced before a message leaves; term and vote only once a second."""

    def timer(self: DurableJournal) -> None:
        if self._state != self._stored:
            self._store()

    patch.setattr(DurableJournal, "sync", lambda self: self._log.sync())
    patch.setattr(DurableJournal, "onOneSecondTimer", timer)


def lying_disk(patch: Patch) -> None:
    """The disk says that it synced, and did not."""
    original = SimDisk.__init__

    def init(self: SimDisk, rng: Any) -> None:
        original(self, rng)
        self.honest = False

    patch.setattr(SimDisk, "__init__", init)


def no_alignment(patch: Patch) -> None:
    """A log that does not begin with the snapshot's two entries is cleared, as PySyncObj does."""
    original = DurableJournal._align

    def align(self: DurableJournal, entries: list[LogEntry], mark: SnapshotMark | None) -> None:
        if mark is None or (len(entries) > 1 and entries[0] == mark.previous):
            original(self, entries, mark)
        else:
            self._log.clear()
            self._entries = [as_tuple(mark.previous), as_tuple(mark.last)]

    patch.setattr(DurableJournal, "_align", align)


def old_snapshots(patch: Patch) -> None:
    """A snapshot is installed also when the log is already past it."""

    def snapshot_chunk(self: Guard, peer: str, message: m.SnapshotChunk) -> None:
        if self._from_leader(peer, message.term):
            self._bare_heartbeat(peer, message.term, 0)
            received, mark = self._receiver.take(peer, message)
            self._send(peer, m.SnapshotAck(self._journal.term, message.index, received))
            if mark is not None:
                self.install(peer, message.term, mark)

    patch.setattr(Guard, "_snapshot_chunk", snapshot_chunk)


def no_probation(patch: Patch) -> None:
    """A node that lost its disk votes and counts at once."""
    original = DurableJournal.__init__

    def init(self: DurableJournal, disk: SimDisk, log: DurableLog, mark: SnapshotMark | None, *, rejoin: bool) -> None:
        original(self, disk, log, mark, rejoin=False)

    patch.setattr(DurableJournal, "__init__", init)


def no_pre_vote(patch: Patch) -> None:
    """Whoever reaches anybody stands for election."""
    patch.setattr(Guard, "may_stand", lambda self: bool(self.connected) and not self._journal.probation)


MUTANTS: Mapping[str, Callable[[Patch], None]] = {
    function.__name__: function
    for function in (
        no_trimming,
        no_reset_to_commit,
        no_commit_clamp,
        no_reply_term,
        no_sync,
        no_vote_sync,
        lying_disk,
        no_alignment,
        old_snapshots,
        no_probation,
        no_pre_vote,
    )
}
