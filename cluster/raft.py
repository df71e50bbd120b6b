"""One node's consensus: PySyncObj behind one `propose(bytes)`.

Single-threaded and driven from outside: the owner calls `tick` when `due_in` says so, and at once when `wake` is called, and passes on what
the wire brings. So the same code runs under asyncio (`driver.py`) and on a virtual clock in the simulation.

The contract, in one page:

- `propose(payload, done)`: `done` is called exactly once, from a later `tick`, `receive` or `stop`. No error: the payload is durable on a
  majority, was applied here, and `value` is what `StateMachine.apply` returned. NOT_LEADER: it was not proposed. OUTCOME_UNKNOWN:
  leadership was lost under way; it may or may not be applied.
- `barrier(done)`: the same with nothing to apply. Without error, everything acknowledged anywhere before the call is applied here.
- `change_members(change, done)`: add or remove a node, one at a time, on the leader; see `membership.py` and the method.
- Whatever makes it unsafe to go on is raised by `tick` or `receive` as RaftFatalError (or OSError from the disk). The node must then stop;
  every later call raises RaftFatalError, so nothing is said on the strength of a disk whose last write failed. DivergedError: the state
  is not that of the majority, and the node must not start on it again. RemovedError: the node was removed from the cluster.
- After `stop` nothing is done any more: messages are ignored, proposals are answered NOT_LEADER at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import cast

import msgspec

from cluster import seams
from cluster.clocks import Clocks
from cluster.divergence import DivergenceWatch
from cluster.elections import PreVoting
from cluster.errors import RaftFatalError, WireRefusedError
from cluster.guard import Guard
from cluster.introductions import Introductions
from cluster.log import DurableLog
from cluster.members import Members
from cluster.membership import Change, ChangeDone, Member
from cluster.outlook import Outlook
from cluster.ports import CaptureState, Clock, Disk, LogEntry, Schemas, SnapshotMark, Snapshots, StateMachine, Timekeeper, Wire
from cluster.raft_log import Entry, RaftLog, as_tuple
from cluster.settings import ENTRY_BYTES_MAX, RaftSettings
from cluster.status import MemberState, RaftStatus
from cluster.transfer import Receiver, Senders

log = logging.getLogger(__name__)

POLL = 0.01
"""Seconds between ticks while a snapshot is written, sent or checked."""

STANDING_POLL = 0.02
"""Seconds between ticks of a node that would stand for election: it asks the others every 0.15 s, and their answers wake it."""

IDLE_MAX = 1.0
"""Seconds between ticks at most."""

CAPTURE_RETRY = 10.0
"""Seconds after a snapshot that failed to the next try: the log still holds everything, so there is no hurry."""

ELECTION_SECONDS = 0.5
"""After so long without the leader's connection nobody should wait for the next one any more."""


class ProposeError(Enum):
    """Why a proposal came to nothing that this node can vouch for."""

    NOT_LEADER = "not_leader"
    OUTCOME_UNKNOWN = "outcome_unknown"


class ProposeResult(msgspec.Struct, frozen=True):
    """What became of a proposal. `index` is its place in the log, `value` what apply returned; both only without error."""

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
    ) -> None:
        self.on_role_change: list[Callable[[str, str], None]] = []
        self.wake: Callable[[], None] = lambda: None
        self._settings = settings
        self._machine = machine
        self._snapshots = snapshots
        self._raft_log = raft_log
        self._wire = wire
        self._senders = Senders(snapshots, clock)
        self._receiver = Receiver(snapshots)
        self._connected: set[str] = set()
        self._members = Members(settings, raft_log, wire, connected=self._connected, clock=clock)
        self._watch = DivergenceWatch(settings, lambda: raft_log.term)
        self._outlook = Outlook(settings.node_id, clock)
        self._clocks = Clocks(settings.node_id, timekeeper, clock)
        self._guard = Guard(
            settings,
            raft_log,
            wire,
            PreVoting(settings, clock, randomness),
            self._members,
            receiver=self._receiver,
            senders=self._senders,
            watch=self._watch,
            clocks=self._clocks,
            connected=self._connected,
            clock=clock,
        )
        self._guard.barrier = lambda: self.barrier(lambda _result: None)
        self._guard.install = self._install
        self._pending: dict[int, Done] = {}
        self._proposals = 0
        self._refusals: list[Done] = []
        self._told = ("follower", "")
        self._serving = False
        self._snapshot_index = snapshot_index
        self._snapshot_wanted = False
        self._capturing = 0
        self._capture_after = 0.0
        self._clock = clock
        self._ticked_at = -1e9
        self._failure: BaseException | None = None
        self._stopped = False
        self._bytes_at_snapshot = raft_log.bytes_appended
        seams.install(clock, randomness)
        self._core = self._new_core()
        self._guard.core = self._core
        self._members.on_change = self._members_changed
        self._members.start(self._core)
        if snapshot_index:
            self._core.load_snapshot()

    def _new_core(self) -> seams.Core:
        return seams.Core(
            self._settings, raft_log=self._raft_log, bridge=self, hooks=self, make_transport=lambda *_: self._guard.transport
        )

    def introduce(self, introductions: Introductions) -> None:
        """Have the owner speak first on each connection. Call it before `start`."""
        self._guard.introductions = introductions

    def start(self) -> None:
        """Begin to speak with the peers."""
        self._wire.start(self.receive, self._connected_to, self._disconnected_from)

    def _connected_to(self, peer: str) -> None:
        self._guard.on_connected(peer)
        self.wake()

    def _disconnected_from(self, peer: str) -> None:
        self._guard.on_disconnected(peer)
        self.wake()

    def stop(self) -> None:
        """Close wire and log; what was appended is durable, unless the node had failed. May be called again."""
        if self._stopped:
            return
        self._stopped = True
        self._wire.stop()
        self._fail_pending()
        self._refuse()
        self._members.refuse_queued()
        self._senders.drop_all()
        self._receiver.abort()
        if self._failure is None:
            self._raft_log._destroy()

    def _alive(self) -> None:
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

        Without error the change is committed on a majority of the voters after it. An added learner then gets the log, and the leader makes
        it a voter as soon as it is level; `status().members` shows how far it is. A removed node that is connected is told, and stops
        with RemovedError. Every error but OUTCOME_UNKNOWN says that nothing was done.
        """
        self.wake()
        self._members.change(change, done)
        if self._stopped:
            self._members.refuse_queued()

    def _submit(self, payload: bytes, done: Done) -> None:
        self.wake()
        if self._stopped:
            done(ProposeResult(error=ProposeError.NOT_LEADER))
            return
        if not self.is_leader or self._failure is not None:
            self._refusals.append(done)
            return
        self._proposals += 1
        number = self._proposals
        self._pending[number] = done
        self._core.submit(payload, callback=lambda value, error: self._resolved(number, value, error))

    def _resolved(self, number: int, value: object, error: int) -> None:
        done = self._pending.pop(number, None)
        if done is None:
            return
        if error == seams.SUCCESS:
            done(ProposeResult(index=self._core.raftLastApplied + 1, value=value))
        else:
            done(ProposeResult(error=ProposeError.OUTCOME_UNKNOWN))

    def receive(self, peer: str, data: bytes) -> None:
        """A message from a peer. Raises WireRefusedError for what no honest peer says, RaftFatalError when the node must stop."""
        if self._stopped:
            return
        self._alive()
        try:
            changed = self._guard.receive(peer, data)
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
        self._ticked_at = self._clock()
        self._refuse()
        self._begin_snapshot_if_due()
        # PySyncObj counts this node for all that is in its log, so that must be durable before it looks what is committed.
        self._raft_log.sync()
        self._core.tick()
        self._members.tick()
        self._guard.tick()
        self._raft_log.sync()
        self._tell_role()
        if self.is_leader and not self._members.other_voters and self.commit_index < self._raft_log.last_index:
            self.wake()  # nobody's answer will

    def due_in(self) -> float:
        """Seconds until the next tick, if nothing wakes the node before; 0 or less when it is due."""
        since = self._clock() - self._ticked_at
        if self._stopped or self._failure is not None:
            return IDLE_MAX - since
        if self._capturing or self._senders.any or self._receiver.whole is not None:
            return POLL - since
        due = self._core.due_in()
        if due <= 0 and not self.is_leader:
            return STANDING_POLL - since  # it was time to stand, and something spoke against it
        return min(due, IDLE_MAX - since)

    def _refuse(self) -> None:
        refusals, self._refusals = self._refusals, []
        for done in refusals:
            done(ProposeResult(error=ProposeError.NOT_LEADER))

    def request_snapshot(self) -> None:
        """Take a snapshot soon."""
        self._snapshot_wanted = True
        self.wake()

    def transfer_leadership(self, successor: str = "") -> bool:
        """Ask the voter `successor`, or the most advanced follower, to take over.

        False when this node does not lead or has failed, or the one who is to lead is not up to date.
        """
        results: list[int] = []
        if self._stopped or self._failure is not None:
            return False
        try:
            self._core.transferLeadership(successor or None, lambda _result, error: results.append(error))
        except BaseException as error:
            self._failure = error
            raise
        return results == [seams.SUCCESS]

    @property
    def node_id(self) -> str:
        """This node's id."""
        return self._settings.node_id

    @property
    def is_leader(self) -> bool:
        """Whether this node leads, as far as it knows."""
        return self._core.role == "leader"

    @property
    def leader_id(self) -> str:
        """Who leads, as far as this node knows; "" for nobody."""
        return self._core.leader_id

    @property
    def election_in_progress(self) -> bool:
        """Whether the connection to the leader broke a moment ago, and no other leader is known yet: there should be one in a moment."""
        recently = self._clock() - self._guard.leader_lost_at < ELECTION_SECONDS
        return recently and not self.is_leader and self._core.leader_id not in self._guard.connected

    @property
    def commit_index(self) -> int:
        """Up to where the log is known to be committed."""
        return cast(int, self._core.raftCommitIndex)

    @property
    def abi_at_end(self) -> str:
        """The schema in which the next command is to be proposed."""
        return self._raft_log.abi_at_end

    @property
    def abi_at_start(self) -> str:
        """The schema of the log's first command, if the log goes back to the first entry; else ""."""
        return self._raft_log.abi_at_start if self._raft_log.first_index <= 1 and not self._snapshot_index else ""

    def status(self) -> RaftStatus:
        """Where this node is now."""
        core, raft_log, members = self._core, self._raft_log, self._members
        return RaftStatus(
            role=core.role,
            leader_id=core.leader_id,
            term=raft_log.term,
            commit_index=self.commit_index,
            applied_index=core.raftLastApplied,
            last_log_index=raft_log.last_index,
            first_log_index=raft_log.first_index,
            snapshot_index=self._snapshot_index,
            voter=members.votes and not raft_log.recovering,
            ready=self._ready(),
            quorum=members.current.have_majority({*self._connected, self._settings.node_id}),
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
        node_id = member.node_id
        if node_id == self._settings.node_id:
            return MemberState(member, True, self._raft_log.last_index, None)
        match_index = self._core.match_index(node_id) if self.is_leader else 0
        progress = self._senders.progress().get(node_id)
        return MemberState(member, node_id in self._connected, match_index, progress, self._clocks.skew(node_id))

    def _members_changed(self) -> None:
        """Whoever is gone gets nothing more; whoever came is told this node's digests and tells its own."""
        self._watch.set_membership(self._members.current)
        self._senders.keep_only(self._members.ids)

    def _ready(self) -> bool:
        core = self._core
        if core.role == "leader":
            return bool(core.raftLastApplied >= core.no_op_index > 0)
        told = self._guard.leader_commit
        return bool(core.leader_id) and told is not None and bool(core.raftLastApplied >= core.raftCommitIndex >= told)

    # ------------------------------------------------------------------ what the core asks

    def can_campaign(self) -> bool:
        """See `seams.CoreHooks`."""
        return self._guard.can_campaign()

    def apply(self, index: int, payload: bytes) -> object:
        """See `seams.CoreHooks`. Whatever the state machine raises stops the node."""
        try:
            value = self._machine.apply(index, payload)
            self._watch.applied(index, self._machine.digest)
        except Exception as error:
            raise RaftFatalError(f"apply failed at index {index}: {error!r}") from error
        return value

    def role_changed(self, role: str) -> None:
        """See `seams.CoreHooks`. Proposals under way are answered at once: only the log knows what becomes of them."""
        if role != "leader":
            self._fail_pending()

    def _fail_pending(self) -> None:
        pending, self._pending = self._pending, {}
        for done in pending.values():
            done(ProposeResult(error=ProposeError.OUTCOME_UNKNOWN))
        self._members.leadership_lost()

    def more_to_apply(self) -> None:
        """See `seams.CoreHooks`."""
        self.wake()

    def _tell_role(self) -> None:
        now = (self._core.role, self._core.leader_id)
        if now != self._told:
            self._told = now
            for callback in self.on_role_change:
                callback(*now)
        serving = self.is_leader and self._ready()
        if serving and not self._serving:
            log.info("serves as the leader of term %d from index %d on", self._raft_log.term, self._core.raftLastApplied)
        self._serving = serving
        reached = {*self._connected, self._settings.node_id}
        votes = self._members.votes and not self._raft_log.recovering
        self._outlook.look(self._members.current, reached, self._core.leader_id, votes=votes)

    # ------------------------------------------------------------------ snapshots

    def _begin_snapshot_if_due(self) -> None:
        behind = self._core.raftLastApplied - self._snapshot_index
        grown = self._raft_log.bytes_appended - self._bytes_at_snapshot
        due = behind >= self._settings.snapshot_entries or (grown >= self._settings.snapshot_bytes and behind > 1)
        damaged = self._snapshots.damaged
        if self._capturing or self._senders.any or self._clock() < self._capture_after:
            return
        if behind > 0 and (due or damaged or self._snapshot_wanted):
            self._snapshot_wanted = False
            self._core.forceLogCompaction()
        elif damaged and self.is_leader and self._raft_log.last_index == self._snapshot_index:
            # There is nothing yet that a fresh snapshot could stand behind.
            self.barrier(lambda _result: None)

    def capture(self, last: Entry, previous: Entry) -> None:
        """See `seams.SnapshotBridge`."""
        self._capturing = last[1]
        self._bytes_at_snapshot = self._raft_log.bytes_appended
        self._raft_log.sync()
        members = self._raft_log.memberships.at(last[1])
        self._snapshots.capture(SnapshotMark(LogEntry(*last), LogEntry(*previous), members))

    def poll_capture(self) -> str:
        """See `seams.SnapshotBridge`. While a snapshot is on its way to a peer, the log behind it stays."""
        if not self._capturing:
            return "idle"
        if self._senders.any:
            return "running"
        state = self._snapshots.poll()
        if state is CaptureState.DONE:
            self._snapshot_index = max(self._snapshot_index, self._capturing)
        if state is CaptureState.FAILED:
            self._capture_after = self._clock() + CAPTURE_RETRY
        if state is not CaptureState.RUNNING:
            self._capturing = 0
        return state.name.lower()

    def keep_from(self, index: int) -> int:
        """See `seams.SnapshotBridge`."""
        return max(self._raft_log.first_index, index - self._settings.trailing_entries)

    def restored(self) -> tuple[Entry, Entry]:
        """See `seams.SnapshotBridge`."""
        mark = self._snapshots.newest()
        if mark is None:
            raise RaftFatalError("the snapshot that was to be loaded is gone")
        self._snapshots.restore(mark)
        self._raft_log.rebase(mark)
        self._watch.restored(mark.index)
        self._snapshot_index = mark.index
        return as_tuple(mark.last), as_tuple(mark.previous)

    def _install(self, peer: str, term: int, mark: SnapshotMark) -> None:
        """Take over a snapshot that came whole: PySyncObj restores it, begins its log with it, and tells the leader."""
        self._guard.transport.deliver(
            peer,
            {"type": "append_entries", "term": term, "commit_index": mark.index, "serialized": (b"", True, True)},
        )


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
    """Open a node on its disk: load the newest snapshot, align the log with it, and take up term and vote. Call `start` then.

    Without a `timekeeper` entries have no stamps, and clocks are not compared. Without `schemas` there is one only, that of the settings.

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
        log.warning("this node may have forgotten what it acknowledged: it does not vote until it has caught up")
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
    )
