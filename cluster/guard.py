"""The guard: it checks every message before PySyncObj or `replication` handles it, and enforces rules of Raft that
PySyncObj does not.

The rules, by section of the Raft paper (`docs/raft.md` has each with its test):

- section 5.3: entries are removed only from the first one that conflicts (`_append_entries`), never a committed one;
- the commit index a follower takes over covers only entries that *this* message verified (`_held` and `_mismatch`);
- on any mismatch the follower asks for the entries after its commit index, which always matches, so catching up always
  ends;
- answers of an older term are ignored (`_append_reply`); a leader that sees a newer term steps down (section 5.1,
  `_newer_term`);
- no message is sent before the log, the term and the vote that it reports are durable (`outbox.Outbox`);
- a vote counts once per peer and term; a node campaigns only if a majority would vote for it (`can_campaign`:
  pre-vote);
- a snapshot older than the follower's log is refused (`transfer.Receiver`);
- an entry stamped too far in the future is not appended before it is committed (`_refuse_future`, `clocks.py`);
- a node that lost its disk neither votes nor is counted until it has caught up past every entry that it may have
  acknowledged (`Replication._recovering`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from cluster import messages as m
from cluster.clocks import Clocks
from cluster.divergence import DivergenceWatch
from cluster.elections import PreVoting
from cluster.errors import RaftFatalError, RemovedError
from cluster.introductions import Claim, Introductions
from cluster.members import Members
from cluster.outbox import Outbox
from cluster.ports import Clock, SnapshotMark, Wire
from cluster.progress import Peers
from cluster.raft_log import RaftLog
from cluster.replication import Replication
from cluster.seams import Core
from cluster.settings import RaftSettings
from cluster.transfer import Receiver, Senders

Install = Callable[[str, int, SnapshotMark], None]
"""Installs a durable snapshot from a leader in a term."""


class _Acknowledgement(NamedTuple):
    """Everything below `next_index` is in the log, as `peer`, the leader of `term`, has it."""

    peer: str
    term: int
    next_index: int


class Guard:
    """One node's guard.

    Attributes:
        skipped: the number of received entries that the log already had.
        leader_lost_at: when the connection to the leader last broke.
        leader_commit: the commit index in the leader's latest message, or None before the first one. PySyncObj gets a
            smaller one, up to which this node has verified its log.
        introductions: the owner's part of the introduction on new connections (set by the owner, if it has one).

    Args:
        install: installs an incoming snapshot that is durable.
    """

    def __init__(
        self,
        settings: RaftSettings,
        core: Core,
        raft_log: RaftLog,
        wire: Wire,
        outbox: Outbox,
        peers: Peers,
        members: Members,
        replication: Replication,
        *,
        voting: PreVoting,
        receiver: Receiver,
        senders: Senders,
        watch: DivergenceWatch,
        clocks: Clocks,
        clock: Clock,
        install: Install,
    ) -> None:
        self._settings = settings
        self.core = core
        self._raft_log = raft_log
        self._wire = wire
        self._outbox = outbox
        self.peers = peers
        self._members = members
        self._replication = replication
        self._clock = clock
        self._receiver = receiver
        self._senders = senders
        self._watch = watch
        self._clocks = clocks
        self._install = install
        self.voting = voting
        self.skipped = 0
        self.introductions: Introductions | None = None
        self._votes: tuple[int, set[str]] = (0, set())
        self._quiet = False
        self._receiving = False
        self._held_back: _Acknowledgement | None = None
        self.leader_commit: int | None = None
        self.leader_lost_at = -1e9
        self._incoming: Mapping[type[Any], Callable[[str, Any], None]] = {
            m.AppendEntries: self._append_entries,
            m.Heartbeat: self._heartbeat,
            m.RequestVote: self._request_vote,
            m.Vote: self._vote,
            m.PreVote: self._pre_vote,
            m.PreVoteReply: self._pre_vote_reply,
            m.TimeoutNow: self._timeout_now,
            m.SnapshotChunk: self._snapshot_chunk,
            m.SnapshotAck: self._snapshot_ack,
            m.Recovered: self._recovered,
            m.StaleTerm: self._stale_term,
            m.StateDigest: self._watch.heard,
            m.Removed: self._removed,
            m.Introduction: self._introduced,
            m.Objection: self._objection,
        }

    # ------------------------------------------------------------------ the wire's side

    def on_connected(self, peer: str) -> None:
        """The wire connected to a peer."""
        self.peers.connected.add(peer)
        if self.introductions is not None:
            term, last_index = self._raft_log.term, self._raft_log.last_index
            introduction = m.Introduction(term, last_index, not self._raft_log.recovering, self.introductions.own())
            self._outbox.send(peer, introduction)
        self._watch.connected(peer)
        progress = self.peers.get(peer)
        if progress is not None:
            progress.reconnected(self._raft_log.last_index)
            self._replication.unsent = True

    def on_disconnected(self, peer: str) -> None:
        """The wire lost the connection to a peer. If the peer is the leader, this node begins a pre-vote soon, without
        waiting for the election timeout.
        """
        self.peers.connected.discard(peer)
        progress = self.peers.get(peer)
        if progress is not None:
            progress.disconnected()
        self._receiver.drop(peer)
        self._watch.disconnected(peer)
        self._clocks.forget(peer)
        if self._held_back is not None and self._held_back.peer == peer:
            self._held_back = None
        if self.core.leader_id == peer and self.core.role == "follower":
            self.voting.leader_lost()
            self.leader_lost_at = self._clock()
            self.core.campaign_by(self._clock() + self.voting.short_delay())

    def receive(self, peer: str, data: bytes, *, more: bool = False) -> bool:
        """Handle a message from a peer. Returns whether there is work now; heartbeats and their answers cause none.

        With `more`, another message of this peer follows at once. An acknowledgement may then wait for it: one sync and
        one answer serve for all messages that arrived together.

        Raises:
            WireRefusedError: no correct node sends this message. The wire closes the connection.
            RaftFatalError: this node must stop.
        """
        self._receiving = True
        try:
            work = self._handle(peer, m.decode(data))
        finally:
            self._receiving = False
        if not more:
            self._acknowledge()
        return work

    def _handle(self, peer: str, message: m.AnyMessage) -> bool:
        """Handle a message. Returns whether the node should tick at once."""
        kind = type(message)
        if isinstance(message, m.AppendReply):
            return self._append_reply(peer, message)
        if kind is not m.AppendEntries and kind is not m.Heartbeat:
            self._incoming[kind](peer, message)
            return True
        core, term = self.core, self._raft_log.term
        before = core.standing
        self._incoming[kind](peer, message)
        return before != core.standing or term != self._raft_log.term

    def _introduced(self, peer: str, message: m.Introduction) -> None:
        """Pass a peer's introduction to the owner, with what the peer has acknowledged. An objection is sent back."""
        if self.introductions is None:
            return
        # A peer in a later term may have replaced the end of its log. A peer that lost its disk reports it.
        binds = self.core.leads and message.term <= self._raft_log.term and message.voter
        progress = self.peers.get(peer)
        acknowledged = progress.match_index if binds and progress is not None else 0
        objection = self.introductions.heard(peer, Claim(message.body, message.last_index, acknowledged))
        if objection is not None:
            self._outbox.send(peer, m.Objection(self._raft_log.term, objection))

    def _objection(self, peer: str, message: m.Objection) -> None:
        if self.introductions is not None:
            self.introductions.objected(peer, message.body)

    def reply(self, peer: str, next_index: int, *, reset: bool, success: bool, from_future: bool = False) -> None:
        """Answer a leader. A message that only carries a commit index is answered only if it does not match."""
        if self._quiet and success:
            return
        if self._receiving and success:
            self._hold_back(_Acknowledgement(peer, self._raft_log.term, next_index))
            return
        self._acknowledge()
        self._answer(peer, next_index, reset=reset, success=success, from_future=from_future)

    def _answer(self, peer: str, next_index: int, *, reset: bool, success: bool, from_future: bool = False) -> None:
        voter = not self._raft_log.recovering
        answer = m.AppendReply(self._raft_log.term, next_index, reset, success, voter, self._clocks.now(), from_future)
        self._outbox.send(peer, answer)

    def _hold_back(self, new: _Acknowledgement) -> None:
        """Keep an acknowledgement. A later one of the same leadership replaces it."""
        old = self._held_back
        if old is not None and old[:2] == new[:2]:
            new = new._replace(next_index=max(old.next_index, new.next_index))
        self._held_back = new

    def _acknowledge(self) -> None:
        """Send the acknowledgement that was held back. In a newer term it would be another leader's: it is dropped."""
        held, self._held_back = self._held_back, None
        if held is not None and held.term == self._raft_log.term:
            self._answer(held.peer, held.next_index, reset=False, success=True)

    # ------------------------------------------------------------------ follower

    def _from_leader(self, peer: str, term: int) -> bool:
        """Return whether a leader's message is of the current term. A leader of an older term gets a `StaleTerm`."""
        if term < self._raft_log.term:
            self._outbox.send(peer, m.StaleTerm(self._raft_log.term))
            return False
        self.voting.heard_leader()
        return True

    def _append_entries(self, peer: str, message: m.AppendEntries) -> None:
        """Append the entries that the log lacks, and answer, if the previous entry matches."""
        if not self._from_leader(peer, message.term):
            return
        raft_log = self._raft_log
        self.leader_commit = message.commit_index
        self._clocks.heard(peer, message.clock)
        if raft_log.term_at(message.prev_index) != message.prev_term or message.prev_index == 0:
            self._mismatch(peer, message)
            return
        held = 0
        for entry in message.entries:
            if raft_log.term_at(entry.index) != entry.term:
                break
            held += 1
        self.skipped += held
        rest = message.entries[held:]
        allowed = self._clocks.allowed(peer, rest, message.commit_index)
        if allowed < len(rest):
            self._refuse_future(peer, message, held + allowed)
            return
        previous = message.prev_index + held
        if not rest and previous < raft_log.last_index:
            self._held(peer, message, previous)
            return
        if rest and rest[0].index <= raft_log.commit_index:
            raise RaftFatalError(
                f"the leader {peer} of term {message.term} sends another entry {rest[0].index} than the one committed here"
            )
        previous_term = raft_log.term_at(previous)
        assert previous_term is not None, "the entry before is here: it was compared"
        self._quiet = message.quiet
        try:
            self.core.take_entries(peer, message.term, message.commit_index, (previous, previous_term), rest)
        finally:
            self._quiet = False

    def _refuse_future(self, peer: str, message: m.AppendEntries, count: int) -> None:
        """Append the first `count` entries and ask for the next one again, because it is stamped too far ahead of this
        node's clock.
        """
        if count:
            self._append_entries(peer, msgspec.structs.replace(message, entries=message.entries[:count], clock=0))
        else:
            self.core.follow(peer, message.term, min(message.commit_index, message.prev_index))
        self.reply(peer, message.prev_index + count + 1, reset=True, success=False, from_future=True)

    def _held(self, peer: str, message: m.AppendEntries, verified: int) -> None:
        """Handle a message whose entries are all in the log, which has further entries. PySyncObj would cut these, so
        it gets a heartbeat, and the leader gets a success.
        """
        self.core.follow(peer, message.term, min(message.commit_index, verified))
        self.reply(peer, verified + 1, reset=False, success=True)

    def _mismatch(self, peer: str, message: m.AppendEntries) -> None:
        """Ask for the entries after the commit index, up to which every leader's log is the same. The previous entry is
        not in the log.
        """
        commit_index = self._raft_log.commit_index
        self.core.follow(peer, message.term, min(message.commit_index, commit_index))
        self.reply(peer, commit_index + 1, reset=True, success=False)

    def _heartbeat(self, peer: str, message: m.Heartbeat) -> None:
        """Follow the leader, and acknowledge its heartbeat."""
        if self._from_leader(peer, message.term):
            self._clocks.heard(peer, message.clock)
            self.core.follow(peer, message.term, 0)
            self.reply(peer, 0, reset=False, success=False)
            whole = self._receiver.whole
            if whole is not None and (whole.peer, whole.term) == (peer, message.term):
                self._outbox.send(peer, m.SnapshotAck(whole.term, whole.index, whole.held))

    def _timeout_now(self, peer: str, message: m.TimeoutNow) -> None:
        """Campaign at the next tick, if a majority would vote for this node. PySyncObj would keep the request for
        longer, and depose the leader at a later time.
        """
        able = self._members.votes and not self._raft_log.recovering
        if message.term == self._raft_log.term and able and self._members.current.have_majority(self._reached()):
            self.core.take_over(peer, message.term)

    def _reached(self) -> set[str]:
        """Return the nodes that this node reaches, itself included."""
        return {*self.peers.connected, self._settings.node_id}

    # ------------------------------------------------------------------ leader

    def _append_reply(self, peer: str, message: m.AppendReply) -> bool:
        """Handle an answer to this leader. Returns whether there is work now. Answers of an older term are ignored."""
        progress = self.peers.get(peer)
        if progress is None:
            return False
        if message.term > self._raft_log.term:
            self._newer_term(peer, message.term)
            return True
        if message.term != self._raft_log.term or not self.core.leads:
            return False
        return self._replication.replied(progress, message)

    def _recovered(self, peer: str, message: m.Recovered) -> None:
        """End recovery, if the leader says so and the log holds the entry that it names."""
        raft_log = self._raft_log
        held = raft_log.term_at(message.index) == message.term or message.index <= raft_log.commit_index
        if raft_log.recovering and message.term == raft_log.term and self.core.leader_id == peer and held:
            raft_log.end_recovery()

    def _newer_term(self, peer: str, term: int) -> None:
        """Adopt a newer term and follow (section 5.1)."""
        self.core.adopt_term(peer, term)

    def _stale_term(self, peer: str, message: m.StaleTerm) -> None:
        if message.term > self._raft_log.term:
            self._newer_term(peer, message.term)

    def _removed(self, _peer: str, message: m.Removed) -> None:
        """Stop, because the cluster has removed this node."""
        raise RemovedError(self._settings.node_id, message.index)

    # ------------------------------------------------------------------ elections

    def can_campaign(self) -> bool:
        """Return whether this node may become a candidate now. It also sends the pre-votes."""
        members = self._members
        needed = members.current.majority - 1
        if (
            not members.votes
            or self._raft_log.recovering
            or len(self.peers.connected.intersection(members.other_voters)) < needed
        ):
            return False
        if self.core.transfer_pending or not members.other_voters:
            return True
        term = self._raft_log.term + 1
        if self.voting.defers() or self._clocks.benched:
            return False
        if self.voting.won(term, needed):
            return True
        if self.voting.round_due(term):
            for peer in members.other_voters:
                self._outbox.send(peer, m.PreVote(term, self._raft_log.last_index, self._raft_log.last_term, self._clocks.now()))
        return False

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        """Return whether a candidate's log is at least as up to date as this node's (section 5.4.1)."""
        return (last_term, last_index) >= (self._raft_log.last_term, self._raft_log.last_index)

    def _pre_vote(self, peer: str, message: m.PreVote) -> None:
        """Answer whether this node would vote for a candidate."""
        granted = (
            not self._raft_log.recovering
            and message.term > self._raft_log.term
            and not self.core.leads
            and not self.voting.leader_is_fresh()
            and not self._clocks.far_ahead(message.clock)
            and self._up_to_date(message.last_index, message.last_term)
        )
        if granted and self._goes_first(peer, message):
            # The peer may have asked before this node noticed the loss of the leader, so ask again.
            self._outbox.send(
                peer, m.PreVote(message.term, self._raft_log.last_index, self._raft_log.last_term, self._clocks.now())
            )
            granted = False
        if granted:
            self.voting.defer()
        self._outbox.send(peer, m.PreVoteReply(message.term, granted, self._raft_log.term))

    def _goes_first(self, peer: str, message: m.PreVote) -> bool:
        """Return whether this node asks too, for the same term and with the same log, and has the greater id."""
        return (
            self.voting.round_is_open()
            and message.term == self._raft_log.term + 1
            and (message.last_term, message.last_index) == (self._raft_log.last_term, self._raft_log.last_index)
            and peer < self._settings.node_id
        )

    def _pre_vote_reply(self, peer: str, message: m.PreVoteReply) -> None:
        if message.own_term > self._raft_log.term:
            self._newer_term(peer, message.own_term)
        elif message.granted and peer in self._members.other_voters:
            self.voting.granted(peer, message.term)

    def _request_vote(self, peer: str, message: m.RequestVote) -> None:
        if not self._raft_log.recovering:
            self.core.take_vote_request(peer, message.term, message.last_index, message.last_term)

    def _vote(self, peer: str, message: m.Vote) -> None:
        """Count a vote for this node, once for each peer and term."""
        if message.term != self._raft_log.term or peer not in self._members.other_voters:
            return
        if self._votes[0] != message.term:
            self._votes = (message.term, set())
        if peer not in self._votes[1]:
            self._votes[1].add(peer)
            self.core.take_vote(peer, message.term)

    # ------------------------------------------------------------------ snapshots

    def _snapshot_chunk(self, peer: str, message: m.SnapshotChunk) -> None:
        """Receive a part of the leader's snapshot, unless the log has all of it committed."""
        if not self._from_leader(peer, message.term):
            return
        self.leader_commit = max(self.leader_commit or 0, message.index)
        # With the snapshot's last entry the log holds all before it as well (section 5.3), and keeps what follows
        # (section 7).
        holds = self._raft_log.term_at(message.index) == message.index_term
        self.core.follow(peer, message.term, message.index if holds else 0)
        if message.index <= self._raft_log.commit_index:
            self._outbox.send(peer, m.SnapshotAck(self._raft_log.term, message.index, message.size))
            self.reply(peer, self._raft_log.commit_index + 1, reset=True, success=False)
            return
        received = self._receiver.take(peer, message)
        self._outbox.send(peer, m.SnapshotAck(self._raft_log.term, message.index, received))

    def _poll_incoming(self) -> None:
        """Install the received snapshot once it is checked, unless the term or the log has passed it in the meantime."""
        whole = self._receiver.whole
        if whole is None:
            return
        holds = self._raft_log.term_at(whole.index) == whole.index_term
        if whole.term != self._raft_log.term or whole.index <= self._raft_log.commit_index or holds:
            self._receiver.abort()
            return
        judged = self._receiver.poll()
        if judged is None:
            return
        self._outbox.send(whole.peer, m.SnapshotAck(whole.term, whole.index, whole.size))
        mark = judged[1]
        if mark is not None:
            self._install(whole.peer, whole.term, mark)

    def _snapshot_ack(self, peer: str, message: m.SnapshotAck) -> None:
        progress = self.peers.get(peer)
        if progress is not None and message.term == self._raft_log.term and self.core.leads:
            self._replication.snapshot_taken(progress, message)

    def tick(self) -> None:
        """Do what is due by the clock: send the hashes of new states, continue the transfers of snapshots."""
        self._acknowledge()
        self._poll_incoming()
        for peer, message in self._watch.tick():
            if peer in self.peers.connected:
                self._outbox.send(peer, message)
        leads = self.core.leads
        self._wire.accepts_unknown = not leads and not self.voting.leader_is_fresh()
        if not leads:
            self._senders.stop()
            self._clocks.no_longer_leads()
            return
        if self._clocks.loses_lead(self._members.current):
            self.core.step_down()
            return
        for peer, chunk in self._senders.due(self._raft_log.term):
            self._outbox.send(peer, chunk)
