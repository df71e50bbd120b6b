"""PySyncObj's journal over the durable log and the hard state.

PySyncObj needs a list of entries whose first two are those of the newest snapshot. The disk may have earlier entries
(only whole segments are removed) or lack entries (an installed snapshot covers everything up to its index). This module
aligns both before PySyncObj reads the list: PySyncObj would clear a log with another beginning, entries after the
snapshot included.

Opening syncs every file and the directory before anything is read. Data that a killed process wrote and did not sync is
in the page cache only, and this node must not vote with it or acknowledge it before it is on the disk.

Appending does not sync. `sync` is called before any message is sent that reports appended entries, so one fdatasync
covers all entries of a tick, and no message reports an entry that is not durable. The log is durable up to
`durable_index`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import msgspec

from cluster import hardstate
from cluster.errors import LogDamagedError, RaftFatalError
from cluster.hardstate import HardState
from cluster.log import DurableLog
from cluster.membership import MembershipHistory, decode_members
from cluster.messages import MEMBERS
from cluster.ports import Disk, LogEntry, SnapshotMark


class RaftLog:
    """The log in memory and on disk, and the hard state. PySyncObj calls the methods in camel case.

    Attributes:
        memberships: the memberships in the newest snapshot and the log.
        on_membership: called after they changed (set by the owner).

    Args:
        node_id: the node to which the log and the hard state must belong; "" accepts any.
    """

    def __init__(self, disk: Disk, log: DurableLog, mark: SnapshotMark | None, *, rejoin: bool, node_id: str = "") -> None:
        self._disk = disk
        self._log = log
        self._entries: list[LogEntry] = []
        self._base_index = mark.index if mark else 0
        self._settle()
        self._stored = hardstate.load(disk)
        self._state = self._stored or HardState()
        self._state_dirty = self._stored is None
        self._durable_index = 0
        self.bytes_appended = 0
        if node_id:
            self._claim(node_id)
        entries = log.load(owner=node_id)
        end = max(entries[-1].index if entries else 0, self._base_index)
        if rejoin or log.doubtful or self._has_forgotten(end):
            self._set(recovering=True)
            self._store()  # before anything is cut, because a node that crashes in between must find the reason again
        log.cut_torn_end()
        self._align(entries, mark)
        self._marked = mark.members if mark else None
        self.memberships = MembershipHistory(self._marked)
        self.on_membership: Callable[[], None] = lambda: None
        for entry in self._entries:
            self._note_membership(entry.payload, entry.index)
        _, last, last_term = self._entries[-1] if self._entries else (b"", 1, 0)
        self._set(commit_index=min(max(self._state.commit_index, self._base_index, 1), last))
        if last_term > self._state.term:
            # The log is synced before the term: a crash in between leaves an entry of a term in which no message was
            # sent yet.
            self._set(term=last_term, voted_for=None)
        self.sync()

    def _settle(self) -> None:
        """Sync the files that the last process left; see the module's text."""
        for name in self._disk.names():
            self._disk.settle(name)
        self._disk.sync_names()

    def _claim(self, node_id: str) -> None:
        """Check that term and vote belong to this node: with another node's it could vote twice in a term.

        Raises:
            LogDamagedError: they belong to another node.
        """
        if self._state.node_id not in ("", node_id):
            raise LogDamagedError(
                f"{hardstate.FILE}: offset 0: is the term and vote of {self._state.node_id}, and this is {node_id}"
            )
        self._set(node_id=node_id)

    def _has_forgotten(self, end: int) -> bool:
        """Return whether the disk contradicts itself: entries but no hard state, or a log that ends before what was
        known to be committed.
        """
        if self._stored is None:
            return end > 0
        return self._stored.commit_index > max(end, 1)

    def _align(self, entries: list[LogEntry], mark: SnapshotMark | None) -> None:
        """Make the list begin with the snapshot's two entries; see the module's text."""
        if mark is None:
            if entries and entries[0].index != 1:
                raise LogDamagedError(
                    f"the log begins with entry {entries[0].index} and there is no snapshot for what came before. "
                    "Snapshots of this node are gone"
                )
            self._entries = list(entries)
            return
        behind = [entry for entry in entries if entry.index > mark.index]
        if behind and behind[0].index != mark.index + 1:
            raise LogDamagedError(f"the snapshot ends at entry {mark.index} and the log begins with {behind[0].index}")
        at_mark = next((entry for entry in entries if entry.index == mark.index), None)
        if at_mark is not None and at_mark.term != mark.last.term:
            behind = []
            self._log.clear()
        elif entries and entries[-1].index < mark.index:
            self._log.clear()
        self._entries = [mark.previous, mark.last, *behind]

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry. Entries that the snapshot covers are kept in memory only."""
        entry = LogEntry(command, idx, term)
        self._entries.append(entry)
        self.bytes_appended += len(command)
        if idx > self._base_index:
            self._log.append(entry)
            if self._note_membership(command, idx):
                self.on_membership()

    def _note_membership(self, payload: bytes, index: int) -> bool:
        """Record the membership of an entry; whether it has one."""
        if payload[0] != MEMBERS or index <= self._base_index:
            return False
        try:
            self.memberships.add(decode_members(payload[1:], index))
        except ValueError as error:
            raise LogDamagedError(f"entry {index} of the log is no possible membership: {error}") from None
        return True

    def clear(self) -> None:
        """Remove everything, because an installed snapshot covers it. Its two entries are added afterwards."""
        self._log.clear()
        self._entries = []
        self._durable_index = 0
        self.memberships = MembershipHistory(self._marked)
        self.on_membership()

    def rebase(self, mark: SnapshotMark) -> None:
        """Record that a durable snapshot covers everything up to `mark`."""
        self._base_index = mark.index
        self._marked = mark.members

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """Cut the end, from a position in the list."""
        if entryFrom < len(self._entries):
            index = self._entries[entryFrom].index
            if index <= self.commit_index:
                raise LogDamagedError(f"entry {index} is committed (up to {self.commit_index}) and was about to be removed")
            del self._entries[entryFrom:]
            self._log.cut_from(index)
            self._durable_index = min(self._durable_index, index - 1)
            if self.memberships.cut_from(index):
                self.on_membership()

    def compact_to(self, index: int) -> None:
        """Remove the entries before `index`, which a durable snapshot covers."""
        del self._entries[: max(0, index - self.first_index)]
        self._log.roll()
        self._log.compact_to(self.first_index)
        self.memberships.forget_before(self.first_index)

    @overload
    def __getitem__(self, item: int) -> LogEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[LogEntry]: ...
    def __getitem__(self, item: int | slice) -> LogEntry | list[LogEntry]:
        return self._entries[item]

    @property
    def abi_at_end(self) -> str:
        """See `DurableLog`."""
        return self._log.abi_at_end

    @property
    def abi_at_start(self) -> str:
        """See `DurableLog`."""
        return self._log.abi_at_start

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Make everything durable and close the files."""
        self.sync()
        self._log.close()

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Set the commit index. It is written to disk with the next change of term or the next hint (`note_commit`).

        Raises:
            RaftFatalError: it decreases, or is beyond the end of the log. Both violate Raft, so the node stops.
        """
        if raftCommitIndex != self._state.commit_index:
            if raftCommitIndex < self._state.commit_index:
                raise RaftFatalError(f"the commit index goes back from {self._state.commit_index} to {raftCommitIndex}")
            if raftCommitIndex > self.last_index:
                raise RaftFatalError(f"the commit index {raftCommitIndex} is beyond the log's end {self.last_index}")
            self._state = msgspec.structs.replace(self._state, commit_index=raftCommitIndex)

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        """Return the last commit index that was set."""
        return self._state.commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Set term and vote. They are durable before the next message is sent."""
        self._set(term=term, voted_for=votedForNodeId)

    def getCurrentTerm(self) -> int:  # noqa: N802
        """Return the current term."""
        return self._state.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        """Return the node for which this node voted in the current term."""
        return self._state.voted_for

    def note_commit(self) -> None:
        """Write the commit index, so that a restarted node can apply those entries at once."""
        self._state_dirty = self._state_dirty or self._state != self._stored

    def _set(self, **changes: Any) -> None:
        changed = msgspec.structs.replace(self._state, **changes)
        if changed != self._state:
            self._state = changed
            self._state_dirty = True

    def sync(self) -> None:
        """Make log, term and vote durable. Cheap when nothing changed."""
        if self._log.dirty:
            self._log.sync()
        self._durable_index = self._entries[-1].index if self._entries else 0
        if self._state_dirty:
            self._store()

    @property
    def state_dirty(self) -> bool:
        """Whether term, vote or recovering are not durable yet."""
        return self._state_dirty

    def _store(self) -> None:
        hardstate.store(self._disk, self._state)
        self._stored = self._state
        self._state_dirty = False

    @property
    def term(self) -> int:
        """The current term."""
        return self._state.term

    @property
    def commit_index(self) -> int:
        """The last commit index that was set."""
        return self._state.commit_index

    @property
    def recovering(self) -> bool:
        """Whether this node must not vote yet."""
        return self._state.recovering

    def end_recovery(self) -> None:
        """Record that the node has caught up past every entry that it may have acknowledged. It is durable on return."""
        self._set(recovering=False)
        self.sync()

    @property
    def first_index(self) -> int:
        """Index of the first entry in memory."""
        return self._entries[0].index

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self._entries[-1].index

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self._entries[-1].term

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry; None when it is not in memory."""
        entries = self._entries
        position = index - entries[0].index
        return entries[position].term if 0 <= position < len(entries) else None

    @property
    def durable_index(self) -> int:
        """The index up to which the log is durable on this node."""
        return self._durable_index

    def entry(self, index: int) -> LogEntry:
        """Return an entry in memory."""
        return self._entries[index - self._entries[0].index]

    def entries_from(self, index: int, bytes_max: int) -> list[LogEntry]:
        """Return the entries from `index` on whose payloads reach `bytes_max` with the last one, or all. O(entries given)."""
        found: list[LogEntry] = []
        for position in range(index - self._entries[0].index, len(self._entries)):
            entry = self._entries[position]
            found.append(entry)
            bytes_max -= len(entry.payload)
            if bytes_max <= 0:
                break
        return found
