"""All code that touches the internals of PySyncObj 0.3.17. `tests/unit/cluster/test_seams.py` has a test for each seam.

PySyncObj decides what a follower and a candidate do: terms, votes, which entries of a leader go into the log, and the
role. This package decides what a leader does (`replication.py`), and when anything happens (`Raft._tick`). ADR 0050
gives the reasons.

These names of the library are replaced, for all nodes of a process:

==============================  ============================================================
==================================== name                            why
goes when ==============================  ============================================================
==================================== `syncobj.createJournal`         the log is ours (`raft_log.py`); only while `Core`
is made    PySyncObj takes a journal object `syncobj.monotonicTime`         the owner's clock, virtual in the simulation
it takes a clock `syncobj.random`                the owner's randomness, seeded in the simulation              it takes
a source of randomness `syncobj.PIPE_NOTIFIER_ENABLED` a pipe an instance that is never closed                       it
opens the pipe with `autoTick` only `syncobj.pickle`                nothing is ever pickled: using it stops the node
it pickles in its own transport only ==============================
============================================================  ====================================

PySyncObj gets these messages although no peer sent them in this form:

==============================  ============================================================  ====================================
method                          why                                                           goes when
==============================  ============================================================  ====================================
`follow`                        an `append_entries` without entries: the leader lives, and    it has a call "the leader was heard"
                                the log is committed so far. The guard sends it where
                                PySyncObj would cut or take over more than was verified
`adopt_term`                    a `request_vote` that it cannot grant: it adopts a newer      it adopts newer terms from any
                                term only from those                                          message (section 5.1)
==============================  ============================================================  ====================================

Methods of PySyncObj that are replaced: `__onBecomeLeader` (its tables of peers are `progress.Peers`). Not used: its
tick, its queue of commands, its snapshots, its sending.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol, cast

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, syncobj
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from cluster import messages as m
from cluster.errors import RaftFatalError
from cluster.ports import Clock, LogEntry
from cluster.raft_log import RaftLog
from cluster.settings import RaftSettings

SUPPORTED_VERSION = "0.3.17"
SUCCESS = cast(int, FAIL_REASON.SUCCESS)
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
ROLES = {FOLLOWER: "follower", CANDIDATE: "candidate", LEADER: "leader"}

SLICE_SECONDS = 0.02
"""Seconds for which entries are applied at a time. A longer entry is a slice of its own. The heartbeat is 0.07 s."""

FOREVER = 10**9
"""A number that a setting never reaches, because `raft.py` decides when to compact."""

logging.getLogger("pysyncobj").setLevel(logging.ERROR)


class Randomness(Protocol):
    """The functions of the module `random` that PySyncObj uses."""

    def random(self) -> float:
        """Return a random number from 0 to 1."""


class PeerNode(Node):  # type: ignore[misc]  # PySyncObj has no types
    """A node whose place in PySyncObj's sets is the same in every process: the simulation must run the same way twice."""

    def __init__(self, node_id: str) -> None:
        super().__init__(node_id)
        self._hash = zlib.crc32(node_id.encode())

    def __hash__(self) -> int:
        return self._hash

    __eq__ = Node.__eq__


@cache
def peer_node(node_id: str) -> PeerNode:
    """Return the single object of a node. PySyncObj looks nodes up several times per message, and comparing identical
    objects is fast.
    """
    return PeerNode(node_id)


class _NoPickle:
    """Replaces `pickle` in PySyncObj."""

    @staticmethod
    def dumps(_value: object) -> bytes:
        raise RaftFatalError("PySyncObj wants to pickle something")

    @staticmethod
    def loads(_data: bytes) -> object:
        raise RaftFatalError("PySyncObj wants to unpickle something")


class CoreHooks(Protocol):
    """The interface that the core needs from its owner."""

    def can_campaign(self) -> bool:
        """Return whether this node may become a candidate now."""

    def send(self, peer: str, message: m.AnyMessage) -> bool:
        """Send a message after the state that it reports is durable."""

    def acknowledge(self, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        """Answer a leader's entries."""

    def begin_leading(self) -> None:
        """Called when this node was elected; the first entry of its term is in the log."""

    def can_apply(self, entry: LogEntry) -> bool:
        """Return whether a committed entry can be applied now. If not, this is called again with the next tick."""

    def apply(self, entry: LogEntry) -> None:
        """Apply a committed entry."""

    def role_changed(self, role: str) -> None:
        """Called when the role changed."""

    def more_to_apply(self) -> None:
        """Called when a slice of the committed entries was applied and there are more: tick again soon."""


class _Transport(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """The messages of PySyncObj, as typed messages."""

    ready = True

    def __init__(self, hooks: CoreHooks) -> None:
        super().__init__(None, None, [])
        self._hooks = hooks

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        """Translate and send a message from PySyncObj to a peer."""
        kind = message["type"]
        if kind == "next_node_idx":
            self._hooks.acknowledge(node.id, message["next_node_idx"], reset=message["reset"], success=message["success"])
        elif kind == "response_vote":
            self._hooks.send(node.id, m.Vote(message["term"]))
        else:
            raise RaftFatalError(f"PySyncObj sends {kind!r}, which this node does not know")
        return True


@contextmanager
def _replaced(**names: object) -> Iterator[None]:
    """Replace names of PySyncObj's module during the block."""
    old = {name: getattr(syncobj, name) for name in names}
    for name, value in names.items():
        setattr(syncobj, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(syncobj, name, value)


def install(clock: Clock, randomness: Randomness) -> None:
    """Replace the clock, the randomness and the pickle of PySyncObj.

    Raises:
        RaftFatalError: the installed version of PySyncObj is not the one that this file supports.
    """
    if VERSION != SUPPORTED_VERSION:
        raise RaftFatalError(f"pysyncobj {VERSION} is installed, {SUPPORTED_VERSION} is what this software was written for")
    syncobj.pickle = _NoPickle
    syncobj.monotonicTime = clock
    syncobj.random = randomness
    syncobj.PIPE_NOTIFIER_ENABLED = False


def configuration(settings: RaftSettings, **more: object) -> SyncObjConf:
    """PySyncObj's configuration: it uses the times of the settings, and ticks, compacts and changes members only on
    request.
    """
    return SyncObjConf(
        raftMinTimeout=settings.election_timeout_min,
        raftMaxTimeout=settings.election_timeout_max,
        appendEntriesPeriod=settings.heartbeat,
        leaderFallbackTimeout=settings.leader_fallback,
        autoTick=False,
        appendEntriesUseBatch=False,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        logCompactionMinEntries=FOREVER,
        logCompactionMinTime=FOREVER,
        connectionTimeout=FOREVER,
        **more,
    )


class Core(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """Term, vote, role, and which entries are in the log, committed and applied."""

    _SyncObj__raftState: int
    _SyncObj__raftLeader: Node | None
    _SyncObj__raftLastApplied: int
    _SyncObj__raftCommitIndex: int
    _SyncObj__noopIDx: int | None
    _SyncObj__transferInProgress: bool
    _SyncObj__raftElectionDeadline: float

    def __init__(self, settings: RaftSettings, *, raft_log: RaftLog, hooks: CoreHooks, clock: Clock) -> None:
        self._hooks = hooks
        self._log = raft_log
        self._now = clock
        self._slice_entries = settings.apply_slice
        self._own_transport = _Transport(hooks)
        conf = configuration(settings, onStateChanged=lambda _old, new: hooks.role_changed(ROLES[new]))
        peers = [peer_node(peer) for peer in settings.peers]
        with _replaced(createJournal=lambda _file: raft_log):
            super().__init__(
                peer_node(settings.node_id), peers, conf, transportClass=lambda *_: self._own_transport, nodeClass=PeerNode
            )

    # ------------------------------------------------------------------ state

    @property
    def role(self) -> str:
        """ "follower", "candidate" or "leader"."""
        return ROLES[self._SyncObj__raftState]

    @property
    def leads(self) -> bool:
        """Whether this node leads."""
        return self._SyncObj__raftState == LEADER

    @property
    def leader_id(self) -> str:
        """The id of the leader that this node knows, or ""."""
        leader = self._SyncObj__raftLeader
        if leader is None:
            return ""
        node_id: str = leader.id
        return node_id

    @property
    def standing(self) -> tuple[int, object, int]:
        """Role, leader and commit index, only to be compared with those of another moment."""
        return self._SyncObj__raftState, self._SyncObj__raftLeader, self._SyncObj__raftCommitIndex

    @property
    def no_op_index(self) -> int:
        """The index of the first entry of this node's last leadership, 0 before that."""
        return self._SyncObj__noopIDx or 0

    @property
    def applied_index(self) -> int:
        """The index of the last entry that was applied."""
        return self._SyncObj__raftLastApplied

    @property
    def commit_index(self) -> int:
        """The index up to which the log is known to be committed."""
        return self._SyncObj__raftCommitIndex

    @property
    def transfer_pending(self) -> bool:
        """Whether the leader asked this node to take over."""
        return self._SyncObj__transferInProgress

    @property
    def election_deadline(self) -> float:
        """The time at which a node that is not the leader campaigns."""
        return self._SyncObj__raftElectionDeadline

    def campaign_by(self, deadline: float) -> None:
        """Campaign at `deadline` at the latest."""
        self._SyncObj__raftElectionDeadline = min(self.election_deadline, deadline)

    def set_voters(self, others: Iterable[str]) -> None:
        """Set the other nodes that vote."""
        self._SyncObj__otherNodes = set(map(peer_node, others))

    # ------------------------------------------------------------------ what is due

    def campaign_if_due(self) -> None:
        """Become a candidate if the election timeout is over and the owner allows it (section 5.2)."""
        if self.leads or self.election_deadline >= self._now() or not self._hooks.can_campaign():
            return
        self._SyncObj__raftElectionDeadline = self._now() + self._SyncObj__generateRaftTimeout()
        self._SyncObj__transferInProgress = False
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.raftCurrentTerm + 1, self.selfNode.id)
        self._SyncObj__votesCount = 1
        request = m.RequestVote(self.raftCurrentTerm, self._log.last_index, self._log.last_term)
        voters = self._SyncObj__otherNodes
        for node in voters:
            self._hooks.send(node.id, request)
        if not voters:
            self._SyncObj__onBecomeLeader()

    def apply_committed(self) -> None:
        """Apply committed entries, one slice at a time, so that heartbeats and messages are handled between two slices."""
        applied = self.applied_index
        end = min(self.commit_index, applied + self._slice_entries)
        if end == applied:
            return
        until = self._now() + SLICE_SECONDS
        while applied < end:
            entry = self._log.entry(applied + 1)
            if not self._hooks.can_apply(entry):
                return
            self._SyncObj__raftLastApplied = applied = entry.index
            self._hooks.apply(entry)
            if self._now() > until:
                break
        if applied < self.commit_index:
            self._hooks.more_to_apply()

    # ------------------------------------------------------------------ the leader's part

    def append(self, kind: int, body: bytes) -> int:
        """Append an entry as the leader. Returns its index."""
        index = self._log.last_index + 1
        self._log.add(bytes((kind,)) + body, index, self.raftCurrentTerm)
        return index

    def commit_to(self, index: int) -> None:
        """Set the commit index, which does not decrease."""
        self._SyncObj__raftCommitIndex = index
        self._log.setRaftCommitIndex(index)

    def step_down(self) -> None:
        """Step down, as PySyncObj does if no majority answers."""
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        self._SyncObj__raftLeader = self.selfNode
        self._SyncObj__setState(LEADER)
        self._SyncObj__noopIDx = self.append(m.NO_OP, b"")
        self._hooks.begin_leading()

    # ------------------------------------------------------------------ messages of peers, and made-up ones

    def _deliver(self, peer: str, message: dict[str, Any]) -> None:
        self._SyncObj__onMessageReceived(peer_node(peer), message)

    def follow(self, peer: str, term: int, commit_index: int) -> None:
        """Handle a heartbeat of the leader: the log is committed up to `commit_index`."""
        self._deliver(peer, {"type": "append_entries", "term": term, "commit_index": commit_index})

    def take_entries(
        self, peer: str, term: int, commit_index: int, previous: tuple[int, int], entries: Sequence[LogEntry]
    ) -> None:
        """Append entries of the leader after the one with index and term `previous`, which is in the log. The log ends
        with them.
        """
        self._deliver(
            peer,
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit_index,
                "prevLogIdx": previous[0],
                "prevLogTerm": previous[1],
                "entries": entries,
            },
        )

    def begin_with(self, last: LogEntry, previous: LogEntry, *, clear: bool) -> None:
        """Begin the log with a snapshot up to `last`. With `clear`, or if the log does not begin with the snapshot's
        two entries, all other entries are removed.
        """
        log = self._log
        if clear or len(log) < 2 or log[0] != previous or log[1] != last:
            log.clear()
            log.add(*previous)
            log.add(*last)
        self._SyncObj__raftLastApplied = last.index

    def adopt_term(self, peer: str, term: int) -> None:
        """Adopt a newer term of a peer (section 5.1) and follow."""
        self._deliver(peer, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1})

    def take_vote_request(self, peer: str, term: int, last_index: int, last_term: int) -> None:
        """Handle a candidate's request for this node's vote."""
        self._deliver(peer, {"type": "request_vote", "term": term, "last_log_index": last_index, "last_log_term": last_term})

    def take_vote(self, peer: str, term: int) -> None:
        """Handle a peer's vote for this node."""
        self._deliver(peer, {"type": "response_vote", "term": term})

    def take_over(self, peer: str, term: int) -> None:
        """Handle the leader's request to campaign at once."""
        self._deliver(peer, {"type": "timeout_now", "term": term})
