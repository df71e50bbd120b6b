"""The guard: stands between PySyncObj and the wire, at both ends, and keeps what PySyncObj alone would lose.

To PySyncObj it is the transport; to the wire it is the node. Outgoing dictionaries become typed messages, incoming messages are judged and
only then become dictionaries. What is kept here, by section of the Raft paper (`docs/raft.md` has each with its test):

- section 5.3: entries are removed only from the first one that conflicts (`_append_entries`), never a committed one;
- the commit index a follower takes over covers only entries that *this* message verified (`_held` and `_mismatch`);
- on any mismatch the follower asks for what follows its commit index, which always matches, so catching up always ends;
- answers of an older term count for nothing (`_append_reply`); a leader that meets a newer term steps down (section 5.1, `_newer_term`);
- no message leaves before the log, the term and the vote it speaks of are durable (`_send`);
- a vote counts once a peer and term; nobody stands without a majority that would vote for it (`can_campaign`: pre-vote);
- a snapshot older than what the follower has is refused (`transfer.Receiver`);
- an entry stamped too far in the future is not appended before it is committed (`_refuse_future`, `clocks.py`);
- a node that lost its disk neither votes nor is counted until it has caught up past anything it may have acknowledged (`_recovering_peer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster import messages as m
from cluster.clocks import Clocks
from cluster.divergence import DivergenceWatch
from cluster.elections import PreVoting
from cluster.errors import RaftFatalError, RemovedError
from cluster.introductions import Claim, Introductions
from cluster.members import Members
from cluster.ports import Clock, LogEntry, SnapshotMark, Wire
from cluster.raft_log import RaftLog, as_tuple
from cluster.seams import Core, peer_node
from cluster.settings import RaftSettings
from cluster.transfer import Receiver, Senders

_ROUTINE = (m.AppendEntries, m.Heartbeat, m.AppendReply)
"""Messages of which many change nothing."""


class CoreTransport(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """PySyncObj's view of the guard."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(None, None, [])
        self._guard = guard

    ready = True

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """A message from PySyncObj to a peer."""
        return self._guard.outgoing(node.id, message)

    def deliver(self, peer: str, message: dict[str, Any]) -> None:
        """A message from a peer to PySyncObj."""
        self._onMessageReceived(peer_node(peer), message)

    def connected(self, peer: str) -> None:
        """A peer can be reached."""
        self._onNodeConnected(peer_node(peer))

    def disconnected(self, peer: str) -> None:
        """A peer cannot be reached."""
        self._onNodeDisconnected(peer_node(peer))


class Guard:
    """One node's guard. `core` is set once PySyncObj exists (each needs the other).

    Attributes:
        skipped: entries that arrived though they were here already.
        leader_lost_at: when the connection to the leader broke the last time.
        leader_commit: the commit index that a leader last told; None before any did. PySyncObj is told less: what this node verified.
        barrier: called to put an empty entry into the log (set by the owner).
        introductions: the owner's word on connections (set by the owner, if it has any).
        install: called with a mark when an incoming snapshot is durable, to make PySyncObj take it over (set by the owner).
    """

    core: Core

    def __init__(
        self,
        settings: RaftSettings,
        raft_log: RaftLog,
        wire: Wire,
        voting: PreVoting,
        members: Members,
        *,
        receiver: Receiver,
        senders: Senders,
        watch: DivergenceWatch,
        clocks: Clocks,
        connected: set[str],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._raft_log = raft_log
        self._wire = wire
        self._clock = clock
        self._receiver = receiver
        self._senders = senders
        self._watch = watch
        self._clocks = clocks
        self.voting = voting
        self.transport = CoreTransport(self)
        self._members = members
        self.connected = connected
        self.skipped = 0
        self.barrier: Callable[[], None] = lambda: None
        self.install: Callable[[str, int, SnapshotMark], None] = lambda _peer, _term, _mark: None
        self.introductions: Introductions | None = None
        self._votes: tuple[int, set[str]] = (0, set())
        self._readmit: dict[str, int] = {}
        self._readmit_term = 0
        self.leader_commit: int | None = None
        self.leader_lost_at = -1e9
        self._incoming: Mapping[type[Any], Callable[[str, Any], None]] = {
            m.AppendEntries: self._append_entries,
            m.Heartbeat: self._heartbeat,
            m.AppendReply: self._append_reply,
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
        """The wire reached a peer."""
        self.connected.add(peer)
        if self.introductions is not None:
            term, last_index = self._raft_log.term, self._raft_log.last_index
            self._send(peer, m.Introduction(term, last_index, not self._raft_log.recovering, self.introductions.own()))
        self.transport.connected(peer)
        self._watch.connected(peer)
        if self.core.role == "leader":
            # What was under way is lost. Who has acknowledged nothing yet is asked where it is, as by a new leader.
            known = self.core.match_index(peer)
            self.core.set_next_index(peer, (known or self._raft_log.last_index) + 1)

    def on_disconnected(self, peer: str) -> None:
        """The wire lost a peer. Losing the leader's connection is a reason to ask the others soon, not to wait for silence."""
        self.connected.discard(peer)
        self.transport.disconnected(peer)
        self._forget_recovering(peer)  # it may lose its disk again before it is back
        self._senders.disconnected(peer)
        self._receiver.drop(peer)
        self._watch.disconnected(peer)
        self._clocks.forget(peer)
        if self.core.leader_id == peer and self.core.role == "follower":
            self.voting.leader_lost()
            self.leader_lost_at = self._clock()
            self.core.campaign_by(self._clock() + self.voting.short_delay())

    def receive(self, peer: str, data: bytes) -> bool:
        """A message from a peer; whether there is something to do now. There is not for heartbeats and their answers.

        Raises:
            WireRefusedError: no honest node says that; the wire closes the connection.
            RaftFatalError: this node must stop.
        """
        message = m.decode(data)
        kind = type(message)
        if kind not in _ROUTINE:
            self._incoming[kind](peer, message)
            return True
        before = self._standing(peer)
        self._incoming[kind](peer, message)
        return before != self._standing(peer)

    def _standing(self, peer: str) -> tuple[object, ...]:
        """What a heartbeat or its answer may change."""
        core, raft_log = self.core, self._raft_log
        return (
            core.role,
            core.leader_id,
            raft_log.term,
            raft_log.last_index,
            raft_log.commit_index,
            core.match_index(peer),
            core.next_index(peer),
        )

    def _introduced(self, peer: str, message: m.Introduction) -> None:
        if self.introductions is None:
            return
        # Who knows a later term may have had its log's end replaced; who has lost its disk says so.
        binds = self.core.role == "leader" and message.term <= self._raft_log.term and message.voter
        acknowledged = self.core.match_index(peer) if binds else 0
        objection = self.introductions.heard(peer, Claim(message.body, message.last_index, acknowledged))
        if objection is not None:
            self._send(peer, m.Objection(self._raft_log.term, objection))

    def _objection(self, peer: str, message: m.Objection) -> None:
        if self.introductions is not None:
            self.introductions.objected(peer, message.body)

    def _send(self, peer: str, message: m.AnyMessage) -> bool:
        """Send what is durable. A leader's entries may leave before they are durable here (thesis, section 10.2.1), term and vote may not."""
        if type(message) is not m.AppendEntries or self._raft_log.state_dirty:
            self._raft_log.sync()
        return self._wire.send(peer, m.encode(message))

    # ------------------------------------------------------------------ the core's side

    def outgoing(self, peer: str, message: dict[str, Any]) -> bool:
        """A message of PySyncObj's, on its way out. PySyncObj would acknowledge a snapshot that it could not load; that ends here."""
        self.core.check_loaded()
        kind = message["type"]
        if kind == "append_entries":
            return self._outgoing_entries(peer, message)
        if kind == "next_node_idx":
            return self._reply(peer, message["next_node_idx"], reset=message["reset"], success=message["success"])
        if kind == "request_vote":
            return self._send(peer, m.RequestVote(message["term"], message["last_log_index"], message["last_log_term"]))
        if kind == "response_vote":
            return self._send(peer, m.Vote(message["term"]))
        if kind == "timeout_now":
            return self._send(peer, m.TimeoutNow(message["term"]))
        if kind == "apply_command":
            return False  # PySyncObj would pass a command on to the leader; here the client is told instead
        raise RaftFatalError(f"PySyncObj sends {kind!r}, which the guard does not know")

    def _outgoing_entries(self, peer: str, message: dict[str, Any]) -> bool:
        if "serialized" in message:
            if self._senders.start(peer, message["term"], self.core.next_index(peer)):
                return True
            return self._send(peer, m.Heartbeat(message["term"], self._clocks.now()))
        if self._senders.busy(peer):
            return self._send(peer, m.Heartbeat(message["term"], self._clocks.now()))
        if "transmission" in message:
            raise RaftFatalError("an entry passed the size that PySyncObj sends whole; batches must be capped below it")
        previous = message["prevLogIdx"] or 0
        entries = [LogEntry(*entry) for entry in message["entries"]]
        return self._send(
            peer,
            m.AppendEntries(
                message["term"], message["commit_index"], previous, message["prevLogTerm"] or 0, entries, self._clocks.now()
            ),
        )

    def _reply(self, peer: str, next_index: int, *, reset: bool, success: bool, from_future: bool = False) -> bool:
        voter = not self._raft_log.recovering
        reply = m.AppendReply(self._raft_log.term, next_index, reset, success, voter, self._clocks.now(), from_future)
        return self._send(peer, reply)

    # ------------------------------------------------------------------ follower

    def _from_leader(self, peer: str, term: int) -> bool:
        """Whether a leader's message is of a current leadership; tells a leader of an older one."""
        if term < self._raft_log.term:
            self._send(peer, m.StaleTerm(self._raft_log.term))
            return False
        self.voting.heard_leader()
        return True

    def _bare_heartbeat(self, peer: str, term: int, commit_index: int) -> None:
        self.transport.deliver(peer, {"type": "append_entries", "term": term, "commit_index": commit_index})

    def _append_entries(self, peer: str, message: m.AppendEntries) -> None:
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
        self.transport.deliver(
            peer,
            {
                "type": "append_entries",
                "term": message.term,
                "commit_index": message.commit_index,
                "prevLogIdx": previous,
                "prevLogTerm": previous_term,
                "entries": [as_tuple(entry) for entry in rest],
            },
        )

    def _refuse_future(self, peer: str, message: m.AppendEntries, count: int) -> None:
        """Take the first `count` entries and ask for the next one again: it is stamped too far ahead of this node's clock."""
        if count:
            self._append_entries(peer, msgspec.structs.replace(message, entries=message.entries[:count], clock=0))
        else:
            self._bare_heartbeat(peer, message.term, min(message.commit_index, message.prev_index))
        self._reply(peer, message.prev_index + count + 1, reset=True, success=False, from_future=True)

    def _held(self, peer: str, message: m.AppendEntries, verified: int) -> None:
        """All of it is here already, and more: PySyncObj would cut the rest away. It sees a heartbeat, the leader a yes."""
        self._bare_heartbeat(peer, message.term, min(message.commit_index, verified))
        self._reply(peer, verified + 1, reset=False, success=True)

    def _mismatch(self, peer: str, message: m.AppendEntries) -> None:
        """The entry before is not here: ask for what follows the commit index. That much every leader has."""
        commit_index = self._raft_log.commit_index
        self._bare_heartbeat(peer, message.term, min(message.commit_index, commit_index))
        self._reply(peer, commit_index + 1, reset=True, success=False)

    def _heartbeat(self, peer: str, message: m.Heartbeat) -> None:
        if self._from_leader(peer, message.term):
            self._clocks.heard(peer, message.clock)
            self._bare_heartbeat(peer, message.term, 0)
            self._reply(peer, 0, reset=False, success=False)
            whole = self._receiver.whole
            if whole is not None and (whole.peer, whole.term) == (peer, message.term):
                self._send(peer, m.SnapshotAck(whole.term, whole.index, whole.held))

    def _timeout_now(self, peer: str, message: m.TimeoutNow) -> None:
        """Stand at the next tick, if that can be won. PySyncObj would keep the request until then, and depose the leader at any time later."""
        able = self._members.votes and not self._raft_log.recovering
        if message.term == self._raft_log.term and able and self._members.current.have_majority(self._reached()):
            self.transport.deliver(peer, {"type": "timeout_now", "term": message.term})

    def _reached(self) -> set[str]:
        return {*self.connected, self._settings.node_id}

    # ------------------------------------------------------------------ leader

    def _append_reply(self, peer: str, message: m.AppendReply) -> None:
        if peer not in self._members.ids:
            return
        if message.term > self._raft_log.term:
            self._newer_term(peer, message.term)
        if message.term != self._raft_log.term or self.core.role != "leader":
            return
        self._clocks.heard(peer, message.clock)
        if message.from_future:
            self._clocks.refused_by(peer, message.next_index)
        elif message.success:
            self._clocks.accepted_by(peer, message.next_index)
        if not message.voter:
            self._recovering_peer(peer, message)
            return
        self._forget_recovering(peer)
        self._pass_reply(peer, message.next_index, reset=message.reset, success=message.success)

    def _pass_reply(self, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        core, last = self.core, self._raft_log.last_index
        before = core.next_index(peer)
        next_index = min(next_index, last + 1)
        if reset:
            next_index = max(core.match_index(peer) + 1, 2, next_index)
        self.transport.deliver(peer, {"type": "next_node_idx", "next_node_idx": next_index, "reset": reset, "success": success})
        # PySyncObj goes back to just behind what was acknowledged and sends again what is already on its way.
        if success and core.next_index(peer) < before <= last + 1:
            core.set_next_index(peer, before)

    def _recovering_peer(self, peer: str, message: m.AppendReply) -> None:
        """A node without a vote: send it entries, count nothing, and end the recovery of it behind an entry that a majority of others committed."""
        if self._readmit_term != message.term:
            self._readmit, self._readmit_term = {}, message.term
            self._members.recovering.clear()
        self._members.recovering.add(peer)
        self.core.set_match_index(peer, 0)
        held = message.next_index - 1
        if peer not in self._readmit:
            self._readmit[peer] = self._raft_log.last_index + 1
            self.barrier()
        threshold = self._readmit[peer]
        if message.success and held >= threshold and self._raft_log.commit_index >= threshold:
            self._send(peer, m.Recovered(message.term, threshold))
        back = message.reset or (message.success and message.next_index > self.core.next_index(peer))
        self._pass_reply(peer, message.next_index, reset=back, success=False)

    def _forget_recovering(self, peer: str) -> None:
        self._readmit.pop(peer, None)
        self._members.recovering.discard(peer)

    def _recovered(self, peer: str, message: m.Recovered) -> None:
        raft_log = self._raft_log
        held = raft_log.term_at(message.index) == message.term or message.index <= raft_log.commit_index
        if raft_log.recovering and message.term == raft_log.term and self.core.leader_id == peer and held:
            raft_log.end_recovery()

    def _newer_term(self, peer: str, term: int) -> None:
        """Section 5.1: adopt it and follow. PySyncObj does that only on a request for votes, so it gets one that it will not grant."""
        self.transport.deliver(peer, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1})

    def _stale_term(self, peer: str, message: m.StaleTerm) -> None:
        if message.term > self._raft_log.term:
            self._newer_term(peer, message.term)

    def _removed(self, _peer: str, message: m.Removed) -> None:
        raise RemovedError(self._settings.node_id, message.index)

    # ------------------------------------------------------------------ elections

    def can_campaign(self) -> bool:
        """Whether this node may become a candidate now; asks the others for it as a side effect."""
        members = self._members
        needed = members.current.majority - 1
        if not members.votes or self._raft_log.recovering or len(self.connected.intersection(members.other_voters)) < needed:
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
                self._send(peer, m.PreVote(term, self._raft_log.last_index, self._raft_log.last_term, self._clocks.now()))
        return False

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        """Section 5.4.1."""
        return (last_term, last_index) >= (self._raft_log.last_term, self._raft_log.last_index)

    def _pre_vote(self, peer: str, message: m.PreVote) -> None:
        granted = (
            not self._raft_log.recovering
            and message.term > self._raft_log.term
            and self.core.role != "leader"
            and not self.voting.leader_is_fresh()
            and not self._clocks.far_ahead(message.clock)
            and self._up_to_date(message.last_index, message.last_term)
        )
        if granted and self._goes_first(peer, message):
            # It may have asked when this node had not yet noticed that the leader is gone: ask again.
            self._send(peer, m.PreVote(message.term, self._raft_log.last_index, self._raft_log.last_term, self._clocks.now()))
            granted = False
        if granted:
            self.voting.defer()
        self._send(peer, m.PreVoteReply(message.term, granted, self._raft_log.term))

    def _goes_first(self, peer: str, message: m.PreVote) -> bool:
        """Whether this node asks as well, for the same term and with the same log, and has the greater id."""
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
            self.transport.deliver(
                peer,
                {
                    "type": "request_vote",
                    "term": message.term,
                    "last_log_index": message.last_index,
                    "last_log_term": message.last_term,
                },
            )

    def _vote(self, peer: str, message: m.Vote) -> None:
        if message.term != self._raft_log.term or peer not in self._members.other_voters:
            return
        if self._votes[0] != message.term:
            self._votes = (message.term, set())
        if peer not in self._votes[1]:
            self._votes[1].add(peer)
            self.transport.deliver(peer, {"type": "response_vote", "term": message.term})

    # ------------------------------------------------------------------ snapshots

    def _snapshot_chunk(self, peer: str, message: m.SnapshotChunk) -> None:
        if not self._from_leader(peer, message.term):
            return
        self.leader_commit = max(self.leader_commit or 0, message.index)
        # With the snapshot's last entry the log holds all before it as well (section 5.3), and keeps what follows (section 7).
        holds = self._raft_log.term_at(message.index) == message.index_term
        self._bare_heartbeat(peer, message.term, message.index if holds else 0)
        if message.index <= self._raft_log.commit_index:
            self._send(peer, m.SnapshotAck(self._raft_log.term, message.index, message.size))
            self._reply(peer, self._raft_log.commit_index + 1, reset=True, success=False)
            return
        received = self._receiver.take(peer, message)
        self._send(peer, m.SnapshotAck(self._raft_log.term, message.index, received))

    def _poll_incoming(self) -> None:
        """Take over the snapshot that came whole, once it is checked, unless term or log have gone past it meanwhile."""
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
        self._send(whole.peer, m.SnapshotAck(whole.term, whole.index, whole.size))
        mark = judged[1]
        if mark is not None:
            self.install(whole.peer, whole.term, mark)

    def _snapshot_ack(self, peer: str, message: m.SnapshotAck) -> None:
        if message.term != self._raft_log.term or self.core.role != "leader" or peer not in self._members.ids:
            return
        self._pass_reply(peer, 0, reset=False, success=False)
        was_busy = self._senders.busy(peer)
        for chunk in self._senders.acknowledged(peer, message):
            self._send(peer, chunk)
        if was_busy and self._senders.delivered(peer, message.index):
            # Now, while the log still holds what follows: once it is compacted, the peer would need the next snapshot, and so on.
            self.core.set_next_index(peer, max(self.core.match_index(peer), message.index) + 1)
            self.core.send_entries()

    def tick(self) -> None:
        """What is due by the clock: the digests of new states, the snapshots under way."""
        self._poll_incoming()
        for peer, message in self._watch.tick():
            if peer in self.connected:
                self._send(peer, message)
        leads = self.core.role == "leader"
        self._wire.accepts_unknown = not leads and not self.voting.leader_is_fresh()
        if not leads:
            self._senders.drop_all()
            self._clocks.no_longer_leads()
            return
        if self._clocks.loses_lead(self._members.current):
            self.core.step_down()
            return
        for peer, chunk in self._senders.due(self._raft_log.term):
            self._send(peer, chunk)
