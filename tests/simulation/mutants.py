"""The cluster layer with one protection switched off at a time. The simulation must detect each."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import pytest

from cluster import hardstate, log
from cluster import messages as m
from cluster.captures import Captures
from cluster.clocks import Clocks
from cluster.guard import Guard
from cluster.log import DurableLog
from cluster.outbox import Outbox
from cluster.ports import LogEntry, SnapshotMark
from cluster.raft import Done, ProposeResult, Raft
from cluster.raft_log import RaftLog
from tests.simulation.disk import SimDisk, SimFile

Patch = pytest.MonkeyPatch


def _believe_the_log(self: RaftLog) -> None:
    """Take everything in the log for durable."""
    self._durable_index = self.last_index if len(self) else 0


def no_trimming(patch: Patch) -> None:
    """Entries go to PySyncObj as they arrive, overlapping or not."""

    def append_entries(self: Guard, peer: str, message: m.AppendEntries) -> None:
        if self._from_leader(peer, message.term):
            self.leader_commit = message.commit_index
            previous = (message.prev_index, message.prev_term)
            self.core.take_entries(peer, message.term, message.commit_index, previous, message.entries)

    patch.setattr(Guard, "_append_entries", append_entries)


def no_reset_to_commit(patch: Patch) -> None:
    """A mismatch is answered as PySyncObj answers it: with the previous entry, or the end of its log."""

    def mismatch(self: Guard, peer: str, message: m.AppendEntries) -> None:
        self.core.follow(peer, message.term, min(message.commit_index, self._raft_log.commit_index))
        here = self._raft_log.term_at(message.prev_index) is not None
        self.reply(peer, message.prev_index if here else self._raft_log.last_index + 1, reset=True, success=False)

    patch.setattr(Guard, "_mismatch", mismatch)


def no_commit_clamp(patch: Patch) -> None:
    """The leader's commit index also counts for entries that its message did not verify."""

    def held(self: Guard, peer: str, message: m.AppendEntries, verified: int) -> None:
        self.core.follow(peer, message.term, message.commit_index)
        self.reply(peer, verified + 1, reset=False, success=True)

    def mismatch(self: Guard, peer: str, message: m.AppendEntries) -> None:
        self.core.follow(peer, message.term, message.commit_index)
        self.reply(peer, self._raft_log.commit_index + 1, reset=True, success=False)

    patch.setattr(Guard, "_held", held)
    patch.setattr(Guard, "_mismatch", mismatch)


def no_reply_term(patch: Patch) -> None:
    """Answers of any term count."""

    def append_reply(self: Guard, peer: str, message: m.AppendReply) -> bool:
        progress = self.peers.get(peer)
        return self.core.leads and progress is not None and self._replication.replied(progress, message)

    patch.setattr(Guard, "_append_reply", append_reply)


def no_sync(patch: Patch) -> None:
    """Nothing is synced before a message leaves, and a disk that contradicts itself is trusted."""
    patch.setattr(RaftLog, "_has_forgotten", lambda _self, _end: False)
    patch.setattr(RaftLog, "sync", _believe_the_log)


def no_vote_sync(patch: Patch) -> None:
    """The log is synced before a message leaves, but term and vote only once a second."""

    def timer(self: RaftLog) -> None:
        if self._state != self._stored:
            self._store()

    def sync(self: RaftLog) -> None:
        self._log.sync()
        _believe_the_log(self)

    patch.setattr(RaftLog, "sync", sync)
    patch.setattr(RaftLog, "note_commit", timer)


def lying_disk(patch: Patch) -> None:
    """Syncs have no effect and report success."""
    original = SimDisk.__init__

    def init(self: SimDisk, rng: Any) -> None:
        original(self, rng)
        self.honest = False

    patch.setattr(SimDisk, "__init__", init)


def no_alignment(patch: Patch) -> None:
    """A log that does not begin with the snapshot's two entries is cleared, as in PySyncObj."""
    original = RaftLog._align

    def align(self: RaftLog, entries: list[LogEntry], mark: SnapshotMark | None) -> None:
        if mark is None or (len(entries) > 1 and entries[0] == mark.previous):
            original(self, entries, mark)
        else:
            self._log.clear()
            self._entries = [mark.previous, mark.last]

    patch.setattr(RaftLog, "_align", align)


def old_snapshots(patch: Patch) -> None:
    """A snapshot is installed even if the log is already beyond it."""

    def snapshot_chunk(self: Guard, peer: str, message: m.SnapshotChunk) -> None:
        if self._from_leader(peer, message.term):
            self.core.follow(peer, message.term, 0)
            received = self._receiver.take(peer, message)
            self._outbox.send(peer, m.SnapshotAck(self._raft_log.term, message.index, received))

    def poll_incoming(self: Guard) -> None:
        judged = self._receiver.poll()
        if judged is not None and judged[1] is not None:
            self._outbox.send(judged[0].peer, m.SnapshotAck(self._raft_log.term, judged[0].index, judged[0].size))
            self._install(judged[0].peer, judged[0].term, judged[1])

    patch.setattr(Guard, "_snapshot_chunk", snapshot_chunk)
    patch.setattr(Guard, "_poll_incoming", poll_incoming)


def no_recovery(patch: Patch) -> None:
    """A node that lost its disk votes and counts at once."""
    original = RaftLog.__init__

    def init(self: RaftLog, disk: SimDisk, log: DurableLog, mark: SnapshotMark | None, *, rejoin: bool) -> None:
        original(self, disk, log, mark, rejoin=False)

    patch.setattr(RaftLog, "__init__", init)


def no_pre_vote(patch: Patch) -> None:
    """A node that reaches any other one campaigns."""
    patch.setattr(Guard, "can_campaign", lambda self: bool(self.peers.connected) and not self._raft_log.recovering)


def no_sync_before_answers(patch: Patch) -> None:
    """A follower answers first and syncs at the end of its tick."""

    def send(self: Outbox, peer: str, message: m.AnyMessage) -> bool:
        if not isinstance(message, m.AppendReply):
            self._raft_log.sync()
        return self._wire.send(peer, m.encode(message))

    patch.setattr(Outbox, "send", send)


def no_sync_of_own_entries(patch: Patch) -> None:
    """A leader counts itself for entries that only its followers have synced."""
    sync, tick = RaftLog.sync, Raft._tick
    leading: set[int] = set()

    def unless_leading(self: RaftLog) -> None:
        if id(self) not in leading:
            sync(self)
        else:
            _believe_the_log(self)

    def while_leading(self: Raft) -> None:
        (leading.add if self.is_leader else leading.discard)(id(self._raft_log))
        tick(self)

    patch.setattr(RaftLog, "sync", unless_leading)
    patch.setattr(RaftLog, "_has_forgotten", lambda _self, _end: False)
    patch.setattr(Raft, "_tick", while_leading)


def no_directory_sync(patch: Patch) -> None:
    """Files that the log creates and removes in its directory are not synced."""
    original = DurableLog.__init__

    class Forgetful:
        def __init__(self, disk: SimDisk) -> None:
            self._disk = disk

        def __getattr__(self, name: str) -> Any:
            return getattr(self._disk, name)

        def sync_names(self) -> None:
            pass

    def init(self: DurableLog, disk: SimDisk, **more: Any) -> None:
        original(self, cast(SimDisk, Forgetful(disk)), **more)

    patch.setattr(DurableLog, "__init__", init)


def log_removed_before_snapshot(patch: Patch) -> None:
    """The log is compacted when a snapshot begins, not when it is durable."""
    original = Captures._begin

    def begin(self: Captures) -> None:
        original(self)
        self._raft_log._log.roll()
        self._raft_log._log.compact_to(self._capturing - 1)

    patch.setattr(Captures, "_begin", begin)


def snapshot_clears_log(patch: Patch) -> None:
    """A snapshot replaces the whole log, even if the log has its last entry and later ones."""

    def snapshot_chunk(self: Guard, peer: str, message: m.SnapshotChunk) -> None:
        if not self._from_leader(peer, message.term):
            return
        self.core.follow(peer, message.term, 0)
        if message.index <= self._raft_log.commit_index:
            self._outbox.send(peer, m.SnapshotAck(self._raft_log.term, message.index, message.size))
            self.reply(peer, self._raft_log.commit_index + 1, reset=True, success=False)
            return
        received = self._receiver.take(peer, message)
        self._outbox.send(peer, m.SnapshotAck(self._raft_log.term, message.index, received))

    patch.setattr(Guard, "_snapshot_chunk", snapshot_chunk)


def torn_records_believed(patch: Patch) -> None:
    """The existing part of a record is taken for the record."""

    def read_record(data: bytes, offset: int) -> LogEntry | None:
        start = offset + log._RECORD.size
        if start > len(data):
            return None
        length, index, term, _, _ = log._RECORD.unpack_from(data, offset)
        return LogEntry(data[start : start + length], index, term)

    patch.setattr(log, "read_record", read_record)


def hard_state_in_place(patch: Patch) -> None:
    """Term and vote overwrite the previous ones in place."""

    def store(disk: SimDisk, state: hardstate.HardState) -> None:
        body = msgspec.msgpack.encode(state)
        file = disk.open(hardstate.FILE)
        file.truncate(0)
        file.append(zlib.crc32(body).to_bytes(4, "little") + body)
        file.sync()
        disk.sync_names()

    patch.setattr(hardstate, "store", store)


def votes_count_twice(patch: Patch) -> None:
    """A repeated vote counts again."""

    def vote(self: Guard, peer: str, message: m.Vote) -> None:
        if message.term == self._raft_log.term:
            self.core.take_vote(peer, message.term)

    patch.setattr(Guard, "_vote", vote)


def votes_for_logs_behind(patch: Patch) -> None:
    """A vote is given without a look at the candidate's log (section 5.4.1)."""

    def request_vote(self: Guard, peer: str, message: m.RequestVote) -> None:
        last, last_term = self._raft_log.last_index, self._raft_log.last_term
        if not self._raft_log.recovering:
            self.core.take_vote_request(peer, message.term, last, last_term)

    patch.setattr(Guard, "_request_vote", request_vote)
    patch.setattr(Guard, "_up_to_date", lambda _self, _index, _term: True)


def no_stepping_down(patch: Patch) -> None:
    """A newer term in an answer is ignored (section 5.1)."""
    patch.setattr(Guard, "_newer_term", lambda _self, _peer, _term: None)


def barriers_answered_at_once(patch: Patch) -> None:
    """A leader answers a read from its state, without asking a majority."""

    def barrier(self: Raft, done: Done) -> None:
        if self.is_leader:
            done(ProposeResult(index=self._core.applied_index))

    patch.setattr(Raft, "barrier", barrier)


def unsettled_start(patch: Patch) -> None:
    """A process takes for durable what a killed process wrote and did not sync."""
    patch.setattr(RaftLog, "_settle", lambda _self: None)


def cache_believed(patch: Patch) -> None:
    """After a failed sync the next process reads the page cache and not the disk."""
    patch.setattr(SimDisk, "settle", lambda self, name: SimFile(self, self.files[name]).sync())


def forgotten_end_believed(patch: Patch) -> None:
    """A log that ends before the stored commit index does not cost the vote."""
    patch.setattr(RaftLog, "_has_forgotten", lambda _self, _end: False)


def doubtful_end_believed(patch: Patch) -> None:
    """A last record with a wrong checksum does not cost the vote."""
    original = DurableLog.load

    def load(self: DurableLog) -> list[LogEntry]:
        entries = original(self)
        self.doubtful = False
        return entries

    patch.setattr(DurableLog, "load", load)


def doubt_stored_late(patch: Patch) -> None:
    """The recovering state is stored after the doubtful record is cut off. A process that dies in between leaves no
    reason for it.
    """
    original_store, original_cut = RaftLog._store, DurableLog.cut_torn_end
    cut: set[int] = set()

    def cut_torn_end(self: DurableLog) -> None:
        original_cut(self)
        cut.add(id(self))

    def store(self: RaftLog) -> None:
        if id(self._log) in cut:
            original_store(self)
        else:
            self._state_dirty = True

    patch.setattr(DurableLog, "cut_torn_end", cut_torn_end)
    patch.setattr(RaftLog, "_store", store)


def hard_state_before_log(patch: Patch) -> None:
    """Term, vote and commit index are stored before the entries that they refer to are synced."""

    def sync(self: RaftLog) -> None:
        if self._state_dirty:
            self._store()
        self._log.sync()
        _believe_the_log(self)

    patch.setattr(RaftLog, "sync", sync)


def full_segment_not_synced(patch: Patch) -> None:
    """A full segment is closed without a sync when the next one begins."""

    def close_last(self: DurableLog) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    patch.setattr(DurableLog, "_close_last", close_last)


def _without_truncation_sync(original: Callable[..., None]) -> Callable[..., None]:
    def unsynced(self: DurableLog, *arguments: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimFile, "sync", lambda _self: None)
            original(self, *arguments)

    return unsynced


def truncation_not_synced(patch: Patch) -> None:
    """The end of the log is cut off and the next entry written over it, without a sync in between."""
    patch.setattr(DurableLog, "cut_from", _without_truncation_sync(DurableLog.cut_from))


def torn_end_not_synced(patch: Patch) -> None:
    """A torn end is cut off at the start and the next entry written over it, without a sync in between."""
    patch.setattr(DurableLog, "cut_torn_end", _without_truncation_sync(DurableLog.cut_torn_end))


def removed_from_the_front(patch: Patch) -> None:
    """When the end of the log is removed, its older segments are removed first."""
    original = DurableLog.cut_from

    def cut_from(self: DurableLog, index: int) -> None:
        kept = [segment for segment in self._segments if segment.first_index < index]
        gone = self._segments[len(kept) :]
        self._segments = [*kept, *reversed(gone)]
        original(self, index)

    patch.setattr(DurableLog, "cut_from", cut_from)


def compacted_from_the_back(patch: Patch) -> None:
    """Of the segments that a snapshot covers, the newest are removed first."""

    def compact_to(self: DurableLog, index: int) -> None:
        gone = [segment for segment, after in zip(self._segments, self._segments[1:], strict=False) if after.first_index <= index]
        self._segments[: len(gone)] = reversed(gone)
        for segment in self._segments[: len(gone)]:
            self._disk.archive(segment.name)
        del self._segments[: len(gone)]
        if gone:
            self._disk.sync_names()

    patch.setattr(DurableLog, "compact_to", compact_to)


def entries_from_the_future(patch: Patch) -> None:
    """A follower appends entries with any stamp."""
    patch.setattr(Clocks, "allowed", lambda _self, _leader, entries, _committed: len(entries))


def refused_leader_stays(patch: Patch) -> None:
    """A leader whose entries a majority refuses continues to lead."""
    patch.setattr(Clocks, "loses_lead", lambda _self, _members: False)


def committed_entries_refused(patch: Patch) -> None:
    """A follower whose clock is far behind also refuses committed entries."""
    original = Clocks.allowed
    patch.setattr(Clocks, "allowed", lambda self, leader, entries, _committed: original(self, leader, entries, 0))


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
        no_recovery,
        no_pre_vote,
        no_sync_before_answers,
        no_sync_of_own_entries,
        no_directory_sync,
        log_removed_before_snapshot,
        snapshot_clears_log,
        torn_records_believed,
        hard_state_in_place,
        votes_count_twice,
        votes_for_logs_behind,
        no_stepping_down,
        barriers_answered_at_once,
        unsettled_start,
        cache_believed,
        forgotten_end_believed,
        doubtful_end_believed,
        doubt_stored_late,
        hard_state_before_log,
        full_segment_not_synced,
        truncation_not_synced,
        torn_end_not_synced,
        removed_from_the_front,
        compacted_from_the_back,
        entries_from_the_future,
        refused_leader_stays,
        committed_entries_refused,
    )
}
