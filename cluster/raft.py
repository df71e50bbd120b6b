"""One node's consensus: PySyncObj behind one `propose(bytes)`.

It is single-threaded and driven by its owner, which calls `tick` when `due_in` says so, or at once after `wake`, and
passes on the messages of the wire. So the same code runs under asyncio (`driver.py`) and on a virtual clock in the
simulation.

The contract:

- `propose(payload, done)`: `done` is called exactly once, from a later `tick`, `receive` or `stop`. No error: the
  payload is durable on a majority, was applied here, and `value` is the result of `StateMachine.apply`. NOT_LEADER: it
  was not proposed. OUTCOME_UNKNOWN: leadership was lost during the proposal; it may or may not be applied.
- `barrier(done)`: the same with nothing to apply. Without error, everything acknowledged anywhere before the call is
  applied here.
- `change_members(change, done)`: add or remove a node, one at a time, on the leader; see `membership.py` and the
  method.
- If it is unsafe to continue, `tick` or `receive` raises RaftFatalError (or OSError from the disk). The node must then
  stop. Every later call raises RaftFatalError, so no message depends on a disk whose last write failed. DivergedError:
  the state is not that of the majority, and the node must not start on it again. RemovedError: the node was removed
  from the cluster.
- After `stop` messages are ignored, and proposals are answered NOT_LEADER at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

import msgspec

from cluster import messages as m
from cluster import seams
from cluster.captures import Captures
from cluster.clocks import Clocks
from cluster.divergence import DivergenceWatch
from cluster.elections import PreVoting
from cluster.errors import RaftFatalError, WireRefusedError
from cluster.guard import Guard
from cluster.introductions import Introductions
from cluster.log import DurableLog
from cluster.members import Members
from cluster.membership import Change, ChangeDone, Member
from cluster.outbox import Outbox
from cluster.outlook import Outlook
from cluster.ports import Clock, Disk, LogEntry, Schemas, SnapshotMark, Snapshots, StateMachine, Timekeeper, Wire
from cluster.progress import Peers
from cluster.raft_log import RaftLog
from cluster.replication import Replication
from cluster.settings import ENTRY_BYTES_MAX, RaftSettings
from cluster.status import MemberState, RaftStatus
from cluster.transfer import Receiver, Senders

log = logging.getLogger(__name__)

POLL = 0.01
"""Seconds between ticks while a snapshot is written, sent or checked."""

STANDING_POLL = 0.02
"""Seconds between ticks of a node that wants to campaign: it sends pre-votes every 0.15 s, and the answers wake it."""

IDLE_MAX = 1.0
"""Seconds between ticks at most."""

LOOK_EVERY = 0.2
"""Seconds between two checks whether a majority is connected and a leader is known. They only cause log lines."""

ELECTION_SECONDS = 0.5
"""Seconds without a connection to the leader after which requests no longer wait for the next leader."""


class ProposeError(Enum):
    """Why a proposal has no result."""

    NOT_LEADER = "not_leader"
    OUTCOME_UNKNOWN = "outcome_unknown"


class ProposeResult(msgspec.Struct, frozen=True):
    """The result of a proposal. `index` is its position in the log, `value` the result of apply; both are set only
    without an error.
    """

    error: ProposeError | None = None
    index: int = 0
    value: object = None


Done = Callable[[ProposeResult], None]


class Raft:
    """One node. Build it with `open_raft`.

    Attributes:
        on_role_change: called with (role, leader id) when either changed.
        wake: called when there is something to do before the next regular tick (set by the owner).
    """

    def __init__(
        self,
        settings: RaftSettings,
        machine: StateMachine,
        snapshots: Snapshots,
        raft_log: RaftLog,
        wire: Wire,
        *,
        clock: Clock,
        randomness: seams.Randomness,
        snapshot_index: int,
        timekeeper: Timekeeper,
        may_apply: Callable[[bytes], bool] = lambda _command: True,
    ) -> None:
        self._may_apply = may_apply
        self.on_role_change: list[Callable[[str, str], None]] = []
        self.wake: Callable[[], None] = lambda: None
        self._settings = settings
        self._machine = machine
        self._snapshots = snapshots
        self._raft_log = raft_log
        self._wire = wire
        self._clock = clock
        self._pending: dict[int, Done] = {}
        self._proposals: list[tuple[bytes, Done]] = []
        self._refusals: list[Done] = []
        self._told = ("follower", "")
        self._serving = False
        self._ticked_at = -1e9
        self._look_at = -1e9
        self._second_ends = clock() + 1.0
        self._failure: BaseException | None = None
        self._stopped = False
        seams.install(clock, randomness)
        self._peers = Peers(clock)
        self._receiver = Receiver(snapshots)
        self._watch = DivergenceWatch(settings, lambda: raft_log.term)
        self._outlook = Outlook(settings.node_id, clock)
        self._clocks = Clocks(settings.node_id, timekeeper, clock)
        self._senders = Senders(snapshots, self._peers, clock)
        self._outbox = Outbox(raft_log, wire)
        self._core = seams.Core(settings, raft_log=raft_log, hooks=self, clock=clock)
        self._captures = Captures(settings, raft_log, self._core, snapshots, self._senders, clock=clock, index=snapshot_index)
        self._replication = Replication(
            settings,
            self._core,
            raft_log,
            self._peers,
            self._outbox,
            senders=self._senders,
            clocks=self._clocks,
            clock=clock,
        )
        self._members = Members(
            settings,
            raft_log,
            wire,
            self._core,
            self._peers,
            append=self._replication.append,
            on_change=self._watch.set_membership,
            clock=clock,
        )
        self._guard = Guard(
            settings,
            self._core,
            raft_log,
            wire,
            self._outbox,
            self._peers,
            self._members,
            self._replication,
            voting=PreVoting(settings, clock, randomness),
            receiver=self._receiver,
            senders=self._senders,
            watch=self._watch,
            clocks=self._clocks,
            clock=clock,
            install=self._install,
        )
        if snapshot_index:
            mark = self._restore()
            self._core.begin_with(mark.last, mark.previous, clear=False)

    def introduce(self, introductions: Introductions) -> None:
        """Set the owner's part of introductions. Call it before `start`."""
        self._guard.introductions = introductions

    def start(self) -> None:
        """Start the connections to the peers."""
        self._wire.start(self.receive, self._connected_to, self._disconnected_from)

    def _connected_to(self, peer: str) -> None:
        self._guard.on_connected(peer)
        self.wake()

    def _disconnected_from(self, peer: str) -> None:
        self._guard.on_disconnected(peer)
        self.wake()

    def stop(self) -> None:
        """Close wire and log. All appended entries are durable then, unless the node had failed. May be called again."""
        if self._stopped:
            return
        self._stopped = True
        self._wire.stop()
        self._fail_pending()
        self._refuse()
        self._members.refuse_queued()
        self._senders.stop()
        self._receiver.abort()
        if self._failure is None:
            self._raft_log.close()

    def _alive(self) -> None:
        """Raise RaftFatalError if this node has failed."""
        if self._failure is not None:
            raise RaftFatalError(f"this node has failed and must stop: {self._failure}") from self._failure

    # ------------------------------------------------------------------ what owners call

    def propose(self, payload: bytes, done: Done) -> None:
        """Put `payload` into the log; see the module's text.

        Raises:
            ValueError: the payload is empty or longer than `settings.ENTRY_BYTES_MAX`.
        """
        if not payload or len(payload) > ENTRY_BYTES_MAX:
            raise ValueError(f"a proposal has 1 to {ENTRY_BYTES_MAX} bytes, this one has {len(payload)}")
        self._submit(payload, done)

    def barrier(self, done: Done) -> None:
        """Put an empty entry into the log; see the module's text."""
        self._submit(b"", done)

    def change_members(self, change: Change, done: ChangeDone) -> None:
        """Add or remove a node. `done` is called exactly once, from a later `tick`, `receive` or `stop`.

        Without error the change is committed on a majority of the voters after it. An added learner then gets the log,
        and the leader makes it a voter as soon as it is caught up; `status().members` shows how far it is. A removed
        node that is connected gets a message, and stops with RemovedError. Every error but OUTCOME_UNKNOWN means that
        nothing was done.
        """
        self.wake()
        self._members.change(change, done)
        if self._stopped:
            self._members.refuse_queued()

    def _submit(self, payload: bytes, done: Done) -> None:
        """Queue a payload for the next tick, or queue its refusal."""
        self.wake()
        if self._stopped:
            done(ProposeResult(error=ProposeError.NOT_LEADER))
            return
        if not self.is_leader or self._failure is not None:
            self._refusals.append(done)
            return
        self._proposals.append((payload, done))

    def receive(self, peer: str, data: bytes, more: bool = False) -> None:
        """Handle a message from a peer. `more`: another message of this peer follows at once. Raises WireRefusedError
        for a message that no correct peer sends, RaftFatalError if the node must stop.
        """
        if self._stopped:
            return
        self._alive()
        try:
            changed = self._guard.receive(peer, data, more=more)
        except WireRefusedError:
            raise
        except BaseException as error:
            self._failure = error
            raise
        if changed:
            self.wake()

    def tick(self) -> None:
        """Do what is due: elections, heartbeats, commits, apply, snapshots."""
        if self._stopped:
            return
        self._alive()
        try:
            self._tick()
        except BaseException as error:
            self._failure = error
            raise

    def _tick(self) -> None:
        """Do the work of one tick in its order: send, sync, commit, apply."""
        self._ticked_at = self._clock()
        if self._refusals:
            self._refuse()
        if self._captures.begin_if_due() and self.is_leader:
            self.barrier(lambda _result: None)
        if self._proposals:
            self._append_proposals()
        self._replication.send_due()
        # This node counts its own durable entries, so it syncs before it advances the commit index.
        self._raft_log.sync()
        if self._ticked_at >= self._second_ends:
            self._second_ends = self._ticked_at + 1.0
            self._raft_log.note_commit()
        self._core.campaign_if_due()
        self._replication.advance()
        self._replication.step_down_if_alone()
        self._core.apply_committed()
        self._captures.finish()
        self._members.tick()
        self._guard.tick()
        self._replication.send_due()
        self._raft_log.sync()
        self._tell_role()
        if self._core.leads and not self._members.other_voters and self.commit_index < self._raft_log.last_index:
            self.wake()  # no answer of a peer will do it

    def _append_proposals(self) -> None:
        """Append the waiting proposals. One message to each peer then carries all of them."""
        proposals, self._proposals = self._proposals, []
        for payload, done in proposals:
            self._pending[self._replication.append(m.COMMAND, payload)] = done

    def due_in(self) -> float:
        """Return the seconds until the next tick, unless the node is woken before; 0 or less if a tick is due."""
        now = self._clock()
        since = now - self._ticked_at
        if self._stopped or self._failure is not None:
            return IDLE_MAX - since
        if self._captures.under_way or self._senders.any or self._receiver.whole is not None:
            return POLL - since
        if self._core.leads:
            return min(self._replication.due_at() - now, IDLE_MAX - since)
        due = self._core.election_deadline - now
        if due <= 0:
            return STANDING_POLL - since  # a campaign was due, and something prevented it
        return min(due, IDLE_MAX - since)

    def _refuse(self) -> None:
        refusals, self._refusals = self._refusals, []
        for done in refusals:
            done(ProposeResult(error=ProposeError.NOT_LEADER))

    def request_snapshot(self) -> None:
        """Take a snapshot soon."""
        self._captures.wanted = True
        self.wake()

    def transfer_leadership(self, successor: str = "") -> bool:
        """Ask the voter `successor`, or the most advanced follower, to take over.

        Returns False if this node does not lead or has failed, or the successor is not up to date.
        """
        if self._stopped or self._failure is not None:
            return False
        try:
            return self._replication.transfer_leadership(successor)
        except BaseException as error:
            self._failure = error
            raise

    @property
    def node_id(self) -> str:
        """This node's id."""
        return self._settings.node_id

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self._core.leads

    @property
    def leader_id(self) -> str:
        """The id of the leader, as far as this node knows; "" for none."""
        return self._core.leader_id

    @property
    def election_in_progress(self) -> bool:
        """Whether the connection to the leader broke a moment ago and no other leader is known yet, so that a new one
        can be expected soon.
        """
        recently = self._clock() - self._guard.leader_lost_at < ELECTION_SECONDS
        return recently and not self.is_leader and self._core.leader_id not in self._peers.connected

    @property
    def commit_index(self) -> int:
        """The index up to which the log is known to be committed."""
        return self._core.commit_index

    @property
    def abi_at_end(self) -> str:
        """The schema of the next proposal."""
        return self._raft_log.abi_at_end

    @property
    def abi_at_start(self) -> str:
        """The schema of the log's first command, if the log goes back to the first entry; else ""."""
        return self._raft_log.abi_at_start if self._raft_log.first_index <= 1 and not self._captures.index else ""

    def status(self) -> RaftStatus:
        """Return the status of this node now."""
        core, raft_log, members = self._core, self._raft_log, self._members
        return RaftStatus(
            role=core.role,
            leader_id=core.leader_id,
            term=raft_log.term,
            commit_index=self.commit_index,
            applied_index=core.applied_index,
            last_log_index=raft_log.last_index,
            first_log_index=raft_log.first_index,
            snapshot_index=self._captures.index,
            voter=members.votes and not raft_log.recovering,
            ready=self._ready(),
            quorum=members.current.have_majority({*self._peers.connected, self._settings.node_id} - self._clocks.refusers),
            snapshots_refused=self._receiver.refused,
            snapshots_not_taken=self._senders.not_taken,
            digests_compared=self._watch.compared,
            digests_differing=self._watch.differing,
            digests_undecided=self._watch.undecided,
            members=[self._member_state(member) for member in members.current.members],
            members_index=members.current.index,
            change_under_way=members.under_way,
            entries_from_future=self._clocks.refused,
        )

    def _member_state(self, member: Member) -> MemberState:
        """Return what this node knows of a member."""
        node_id = member.node_id
        if node_id == self._settings.node_id:
            return MemberState(member, True, self._raft_log.last_index, None)
        peer, sending = self._peers[node_id], self._peers[node_id].sending
        progress = None if sending is None else (sending.acknowledged, sending.source.size)
        match_index = peer.match_index if self.is_leader else 0
        return MemberState(member, node_id in self._peers.connected, match_index, progress, self._clocks.skew(node_id))

    def _ready(self) -> bool:
        """Return whether this node has applied everything that the leader had committed: a leader from its own term on."""
        core = self._core
        if core.leads:
            return core.applied_index >= core.no_op_index > 0
        leader_commit = self._guard.leader_commit
        return bool(core.leader_id) and leader_commit is not None and core.applied_index >= core.commit_index >= leader_commit

    # ------------------------------------------------------------------ what the core asks

    def can_campaign(self) -> bool:
        """See `seams.CoreHooks`."""
        return self._guard.can_campaign()

    def send(self, peer: str, message: m.AnyMessage) -> bool:
        """See `seams.CoreHooks`."""
        return self._outbox.send(peer, message)

    def acknowledge(self, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        """See `seams.CoreHooks`."""
        self._guard.reply(peer, next_index, reset=reset, success=success)

    def begin_leading(self) -> None:
        """See `seams.CoreHooks`."""
        self._replication.begin()

    def can_apply(self, entry: LogEntry) -> bool:
        """See `seams.CoreHooks`."""
        return entry.payload[0] != m.COMMAND or self._may_apply(entry.payload[1:])

    def apply(self, entry: LogEntry) -> None:
        """See `seams.CoreHooks`. An exception of the state machine stops the node."""
        kind, index = entry.payload[0], entry.index
        value: object = None
        if kind == m.COMMAND and len(entry.payload) > 1:
            try:
                value = self._machine.apply(index, entry.payload[1:])
                self._watch.applied(index, self._machine.digest)
            except Exception as error:
                raise RaftFatalError(f"apply failed at index {index}: {error!r}") from error
        elif kind == m.MEMBERS:
            self._members.committed(index)
        done = self._pending.pop(index, None)
        if done is not None:
            done(ProposeResult(index=index, value=value() if callable(value) else value))

    def role_changed(self, role: str) -> None:
        """See `seams.CoreHooks`. Proposals in flight are answered at once with OUTCOME_UNKNOWN."""
        if role != "leader":
            self._fail_pending()

    def _fail_pending(self) -> None:
        """Answer all proposals when leadership is lost: those in the log with an unknown outcome."""
        pending, self._pending = self._pending, {}
        self._refusals.extend(done for _, done in self._proposals)
        self._proposals.clear()
        for done in pending.values():
            done(ProposeResult(error=ProposeError.OUTCOME_UNKNOWN))
        self._members.leadership_lost()

    def more_to_apply(self) -> None:
        """See `seams.CoreHooks`."""
        self.wake()

    def _tell_role(self) -> None:
        """Report a new role or leader, and log why nothing is committed."""
        now = (self._core.role, self._core.leader_id)
        if now != self._told:
            self._told = now
            for callback in self.on_role_change:
                callback(*now)
        serving = self.is_leader and self._ready()
        if serving and not self._serving:
            log.info("serves as the leader of term %d from index %d on", self._raft_log.term, self._core.applied_index)
        self._serving = serving
        if self._ticked_at < self._look_at:
            return
        self._look_at = self._ticked_at + LOOK_EVERY
        reached = {*self._peers.connected, self._settings.node_id}
        votes = self._members.votes and not self._raft_log.recovering
        self._outlook.look(self._members.current, reached, self._core.leader_id, votes=votes, refusers=self._clocks.refusers)

    # ------------------------------------------------------------------ snapshots

    def _restore(self) -> SnapshotMark:
        """Load the state of the newest snapshot."""
        mark = self._snapshots.newest()
        if mark is None:
            raise RaftFatalError("the snapshot that was to be loaded is gone")
        try:
            self._snapshots.restore(mark)
        except Exception as error:
            raise RaftFatalError(f"the snapshot could not be loaded: {error}") from error
        self._raft_log.rebase(mark)
        self._watch.restored(mark.index)
        self._captures.index = mark.index
        return mark

    def _install(self, peer: str, term: int, _mark: SnapshotMark) -> None:
        """Install a received snapshot, begin the log with it, and answer the leader."""
        self._core.follow(peer, term, 0)
        mark = self._restore()
        self._core.begin_with(mark.last, mark.previous, clear=True)
        self._core.commit_to(max(self._core.commit_index, mark.index))
        self._guard.reply(peer, self._raft_log.last_index + 1, reset=False, success=True)


def open_raft(
    settings: RaftSettings,
    machine: StateMachine,
    snapshots: Snapshots,
    disk: Disk,
    wire: Wire,
    *,
    clock: Clock,
    randomness: seams.Randomness,
    timekeeper: Timekeeper | None = None,
    schemas: Schemas | None = None,
) -> Raft:
    """Open a node on its disk: load the newest snapshot, align the log with it, and read term and vote. Call `start`
    afterwards.

    Without a `timekeeper` entries have no stamps, and clocks are not compared. Without `schemas` the only schema is
    that of the settings.

    Raises:
        LogDamagedError: log or hard state cannot be trusted.
        RaftFatalError: the snapshot cannot be loaded.
    """
    mark = snapshots.newest()
    durable_log = DurableLog(
        disk, node_id=settings.node_id, abi=settings.abi, segment_bytes=settings.segment_bytes, schemas=schemas
    )
    raft_log = RaftLog(disk, durable_log, mark, rejoin=settings.rejoin, node_id=settings.node_id)
    if raft_log.recovering:
        log.warning("this node may have lost entries that it acknowledged: it does not vote until it has caught up")
    return Raft(
        settings,
        machine,
        snapshots,
        raft_log,
        wire,
        clock=clock,
        randomness=randomness,
        snapshot_index=mark.index if mark else 0,
        timekeeper=timekeeper or Timekeeper(),
        may_apply=schemas.may_apply if schemas is not None else lambda _command: True,
    )
