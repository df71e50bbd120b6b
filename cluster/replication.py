"""The leader's part: what it sends to each peer, how it handles the answers, what it commits, and when it steps down.

- Entries are sent before the leader has synced them (thesis, section 10.2.1). It counts itself up to
  `RaftLog.durable_index` only, and commits nothing beyond it. Otherwise the stored commit index could be beyond the end
  of its log after a crash.
- Only entries of the leader's own term are committed by counting (section 5.4.2).
- Entries are encoded once a round, however many peers get them.
- The commit index is sent with the next entries, or after `COMMIT_SENT_AFTER` in a message that is not answered.
- Answers of an older term are ignored. A recovering node gets entries, and is not counted until it has every entry that
  it may have acknowledged (`_recovering`).
"""

from __future__ import annotations

from typing import cast

from cluster import messages as m
from cluster.clocks import Clocks
from cluster.outbox import Outbox
from cluster.ports import Clock, LogEntry
from cluster.progress import Flow, Peers, Progress
from cluster.raft_log import RaftLog
from cluster.seams import Core
from cluster.settings import APPEND_BYTES_MAX, RaftSettings
from cluster.transfer import Senders

COMMIT_SENT_AFTER = 0.003
"""Seconds after which followers get the commit index if no entries carry it before. A single command then costs each
follower one message less, and a follower applies it this much later. The time is that of a client which sends one order
after the other, so that its next order carries the commit of the one before.
"""

NEVER = float("inf")


class Replication:
    """One node's part as a leader. It does nothing while the node does not lead.

    Attributes:
        unsent: entries wait to be sent.
    """

    def __init__(
        self,
        settings: RaftSettings,
        core: Core,
        raft_log: RaftLog,
        peers: Peers,
        outbox: Outbox,
        *,
        senders: Senders,
        clocks: Clocks,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._core = core
        self._raft_log = raft_log
        self._peers = peers
        self._outbox = outbox
        self._senders = senders
        self._clocks = clocks
        self._clock = clock
        self._heartbeat_at = 0.0
        self._commit_told_at = NEVER
        self.unsent = False

    def begin(self) -> None:
        """Begin to lead: this node was elected, and the first entry of its term is in the log."""
        self._peers.begin_term(self._core.no_op_index - 1)
        self._commit_told_at = NEVER
        self.send()

    def append(self, kind: int, body: bytes) -> int:
        """Append an entry, which the next `send_due` sends. Returns its index."""
        self.unsent = True
        return self._core.append(kind, body)

    # ------------------------------------------------------------------ sending

    def due_at(self) -> float:
        """Return the time at which `send_due` has something to send."""
        return min(self._heartbeat_at, self._commit_told_at)

    def send_due(self) -> None:
        """Send new entries and the messages that are due by the clock."""
        if not self._core.leads:
            return
        now = self._clock()
        if self.unsent or now > self._heartbeat_at:
            self.send()
        elif now >= self._commit_told_at:
            self._send_commit()

    def send(self) -> None:
        """Send to each peer its next entries or a heartbeat. All of these messages are answered."""
        self.unsent = False
        self._heartbeat_at = self._clock() + self._settings.heartbeat
        self._commit_told_at = NEVER
        now, encoded = self._clocks.now(), dict[int, tuple[bytes, int]]()
        for peer in self._peers:
            if peer.node_id in self._peers.connected:
                self._send_to(peer, now, encoded)

    def _send_to(self, peer: Progress, now: int, encoded: dict[int, tuple[bytes, int]]) -> None:
        """Send a peer the entries that it lacks, as far as they are allowed, or begin to send the snapshot."""
        until = self._clock() + self._settings.heartbeat
        while True:
            behind = peer.next_index <= self._raft_log.first_index
            if behind or peer.flow is Flow.SNAPSHOT:
                if behind:
                    self._senders.start(peer, self._raft_log.term)
                self._outbox.send(peer.node_id, m.Heartbeat(self._raft_log.term, now))
                return
            found = encoded.get(peer.next_index)
            if found is None:
                found = encoded[peer.next_index] = self._encode(peer.next_index, now)
            message, end = found
            self._outbox.send_entries(peer.node_id, message)
            peer.next_index = end + 1
            if end >= self._raft_log.last_index:
                return
            if self._clock() > until:
                self.unsent = True
                return

    def _encode(self, first: int, now: int) -> tuple[bytes, int]:
        """Return the message with the entries from `first` on, as many as fit, and the last index in it."""
        raft_log = self._raft_log
        entries = raft_log.entries_from(first, APPEND_BYTES_MAX)
        previous_term = cast(int, raft_log.term_at(first - 1))
        message = m.AppendEntries(raft_log.term, raft_log.commit_index, first - 1, previous_term, entries, now)
        return m.encode(message), first + len(entries) - 1

    def _send_commit(self) -> None:
        """Send the commit index to the peers that have acknowledged the end of the log. They do not answer."""
        self._commit_told_at = NEVER
        raft_log, last = self._raft_log, self._raft_log.last_index
        commit = m.AppendEntries(
            raft_log.term, raft_log.commit_index, last, raft_log.last_term, list[LogEntry](), self._clocks.now(), quiet=True
        )
        message = m.encode(commit)
        for peer in self._peers:
            if peer.node_id in self._peers.connected and peer.flow is not Flow.SNAPSHOT and peer.next_index > last:
                self._outbox.send_entries(peer.node_id, message)

    # ------------------------------------------------------------------ answers

    def replied(self, peer: Progress, message: m.AppendReply) -> bool:
        """Handle an answer of this term. Returns whether there is work now."""
        peer.answered_at, peer.answered = self._clock(), True
        self._clocks.heard(peer.node_id, message.clock)
        if message.from_future:
            self._clocks.refused_by(peer.node_id, message.next_index)
        elif message.success:
            self._clocks.accepted_by(peer.node_id, message.next_index)
        next_index = min(message.next_index, self._raft_log.last_index + 1)
        if not message.voter:
            self._recovering(peer, message, next_index)
            news = True
        else:
            peer.recovery_index = 0
            news = message.success and peer.acknowledged(next_index)
            if message.reset:
                peer.go_back(next_index)
        peer.check(self._raft_log.last_index)
        if peer.next_index <= self._raft_log.last_index and peer.flow is not Flow.SNAPSHOT and message.reset:
            self.unsent = True
        return self.unsent or message.from_future or (news and self._to_commit() > 0)

    def _recovering(self, peer: Progress, message: m.AppendReply, next_index: int) -> None:
        """Handle an answer of a recovering node: send it entries, do not count it, and let it vote again after an entry
        that a majority of others committed.
        """
        if not peer.recovering:
            peer.recovers(self.append(m.COMMAND, b""))
        needed = peer.recovery_index
        if message.success and next_index > needed and self._raft_log.commit_index >= needed:
            self._outbox.send(peer.node_id, m.Recovered(message.term, needed))
        if message.reset:
            peer.go_back(next_index)
        elif message.success:
            peer.next_index = max(peer.next_index, next_index)

    def snapshot_taken(self, peer: Progress, message: m.SnapshotAck) -> None:
        """Handle the acknowledgement of bytes of a snapshot."""
        peer.answered_at = self._clock()
        was_busy = peer.flow is Flow.SNAPSHOT
        for chunk in self._senders.acknowledged(peer, message):
            self._outbox.send(peer.node_id, chunk)
        if was_busy and peer.sending is None and peer.delivered is not None and peer.delivered.index == message.index:
            # Now, while the log still has the entries after the snapshot. After a compaction the peer would need the
            # next snapshot.
            peer.next_index = max(peer.match_index, message.index) + 1
            self.send()

    # ------------------------------------------------------------------ commits

    def _to_commit(self) -> int:
        """Return the index up to which entries can be committed now, or 0 if nothing is new."""
        raft_log, committed = self._raft_log, self._core.commit_index
        if committed == raft_log.last_index:
            return 0
        durable = raft_log.durable_index
        index = min(self._peers.committed_index(durable), durable)
        return index if index > committed and raft_log.term_at(index) == raft_log.term else 0

    def advance(self) -> None:
        """Commit the entries that a majority of the voters has."""
        index = self._to_commit() if self._core.leads else 0
        if index:
            self._core.commit_to(index)
            self._commit_told_at = min(self._commit_told_at, self._clock() + COMMIT_SENT_AFTER)

    # ------------------------------------------------------------------ the lead

    def step_down_if_alone(self) -> None:
        """Step down if no majority of the voters has answered for a while, because another node may lead."""
        if not self._core.leads:
            return
        voters = 1 + sum(peer.votes for peer in self._peers)
        answering = 1 + self._peers.voters_since(self._clock() - self._settings.leader_fallback)
        if 2 * answering <= voters:
            self._core.step_down()

    def transfer_leadership(self, successor: str) -> bool:
        """Ask a voter that has the whole log to campaign, `successor` or any. Returns whether one was asked."""
        last = self._raft_log.last_index
        able = [
            peer.node_id
            for peer in self._peers
            if peer.votes
            and peer.match_index == last
            and peer.node_id in self._peers.connected
            and successor in ("", peer.node_id)
        ]
        if not self._core.leads or not able:
            return False
        return self._outbox.send(max(able), m.TimeoutNow(self._raft_log.term))
