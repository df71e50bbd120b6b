"""Everything that touches PySyncObj 0.3.17's inside. `tests/unit/cluster/test_seams.py` has a test per seam.

What is replaced, and why (the facts are in `docs/raft.md`):

==============================  =======================================================================================
seam                            reason
==============================  =======================================================================================
`syncobj.pickle`                entries carry raw bytes; nothing is ever unpickled
`syncobj.createJournal`         the durable log
`syncobj.Serializer`            RocksDB snapshots and our own transfer, no dump file
`syncobj.monotonicTime`         the owner's clock, virtual in the simulation
`syncobj.random`                the owner's randomness, seeded in the simulation
`syncobj.PIPE_NOTIFIER_ENABLED` a pipe an instance that is never closed
`__connectedToAnyone`           asked before each candidacy: here the majority rule and the pre-vote say no
`__otherNodes`, and the like    the membership (`Core.set_peers`): who votes is another node, everybody else a read-only node, which gets
                                the log and counts for nothing
`__raftLog`, and the like       an entry with a membership is appended and sent at once, so that what was checked still holds
`__applyLogEntries`             a long backlog is applied in slices; a commit is told with the next entries, not by a round of its own
private fields                  next and match index, election deadline, transfer flag, no-op index: read and corrected by the guard
==============================  =======================================================================================

PySyncObj reads clock and randomness through its module, so all nodes of one process share them.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Protocol, cast

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated, syncobj
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from cluster.errors import RaftFatalError
from cluster.messages import MEMBERS
from cluster.ports import Clock
from cluster.raft_log import Entry, RaftLog
from cluster.settings import APPEND_BYTES_MAX, RaftSettings

SUPPORTED_VERSION = "0.3.17"
SUCCESS = cast(int, FAIL_REASON.SUCCESS)
ROLES = {0: "follower", 1: "candidate", 2: "leader"}
COMMIT_TOLD_AFTER = 0.0015
"""Seconds after which followers are told of a commit if no entry tells them before. A lone command then costs each follower one message less,
and a follower applies it this much later."""

SLICE_SECONDS = 0.02
"""How long entries are applied in one go; an entry that takes longer is a slice of its own. The heartbeat is 0.05 s."""

FOREVER = 10**9
"""A number that a setting never reaches: when to compact is decided in `raft.py`."""

logging.getLogger("pysyncobj").setLevel(logging.ERROR)


class Randomness(Protocol):
    """What PySyncObj uses of the module `random`."""

    def random(self) -> float:
        """From 0 to 1."""


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
    """The one object for a node: PySyncObj looks nodes up several times a message, and finds the same object at once."""
    return PeerNode(node_id)


class _RawEntries:
    """Stands where PySyncObj expects `pickle`: a call of the one replicated method is its argument, as it is."""

    @staticmethod
    def dumps(call: tuple[int, tuple[bytes]]) -> bytes:
        method, (payload,) = call
        if method != 0:
            raise RaftFatalError(f"a call of replicated method {method}: there is only one")
        return payload

    @staticmethod
    def loads(data: bytes) -> tuple[int, tuple[bytes]]:
        return 0, (data,)


class SnapshotBridge(Protocol):
    """What the owner does when PySyncObj speaks of dumps."""

    def poll_capture(self) -> str:
        """One of "idle", "running", "done", "failed"; the last two are told once."""

    def keep_from(self, index: int) -> int:
        """The first index to keep in the log, when a snapshot up to `index` + 1 is durable."""

    def capture(self, last: Entry, previous: Entry) -> None:
        """Begin a snapshot of the state after `last`."""

    def restored(self) -> tuple[Entry, Entry]:
        """Load the newest snapshot into the state machine; its last entry and the one before."""


class _Serializer:
    """Stands where PySyncObj expects its `Serializer`."""

    _STATES: ClassVar[dict[str, Any]] = {
        "idle": SERIALIZER_STATE.NOT_SERIALIZING,
        "running": SERIALIZER_STATE.SERIALIZING,
        "done": SERIALIZER_STATE.SUCCESS,
        "failed": SERIALIZER_STATE.FAILED,
    }

    def __init__(self, bridge: SnapshotBridge) -> None:
        self._bridge = bridge
        self._index = 0
        self.failure: BaseException | None = None

    def checkSerializing(self) -> tuple[Any, int]:  # noqa: N802
        state = self._bridge.poll_capture()
        index = self._bridge.keep_from(self._index) if state == "done" else self._index
        return self._STATES[state], index

    def serialize(self, data: tuple[Any, Entry, Entry, Any], index: int) -> None:
        self._index = index
        self._bridge.capture(data[1], data[2])

    def deserialize(self) -> tuple[None, Entry, Entry, list[Any]]:
        # PySyncObj logs whatever is raised here and goes on with an empty state, so it is kept and told by `Core.check_loaded`.
        try:
            last, previous = self._bridge.restored()
        except Exception as error:
            self.failure = error
            raise
        return None, last, previous, []

    def getTransmissionData(self, _node: Node) -> tuple[bytes, bool, bool]:  # noqa: N802
        return b"", False, True

    def setTransmissionData(self, data: object) -> bool:  # noqa: N802
        return data is not None

    def cancelTransmisstion(self, _node: Node) -> None:  # noqa: N802
        return None


class CoreHooks(Protocol):
    """What the core asks of its owner."""

    def can_campaign(self) -> bool:
        """Whether this node may become a candidate now."""

    def apply(self, index: int, payload: bytes) -> object:
        """Apply a committed command."""

    def role_changed(self, role: str) -> None:
        """The role changed, just now."""

    def more_to_apply(self) -> None:
        """A slice of the committed entries was applied, and there are more: tick again soon."""


@contextmanager
def _replaced(**names: object) -> Iterator[None]:
    old = {name: getattr(syncobj, name) for name in names}
    for name, value in names.items():
        setattr(syncobj, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(syncobj, name, value)


def install(clock: Clock, randomness: Randomness) -> None:
    """Give PySyncObj this process's clock and randomness, and take its pickle away.

    Raises:
        RaftFatalError: another version of PySyncObj is installed than this file knows.
    """
    if VERSION != SUPPORTED_VERSION:
        raise RaftFatalError(f"pysyncobj {VERSION} is installed, {SUPPORTED_VERSION} is what the guard was written for")
    syncobj.pickle = _RawEntries
    syncobj.monotonicTime = clock
    syncobj.random = randomness
    syncobj.PIPE_NOTIFIER_ENABLED = False


def configuration(settings: RaftSettings, **more: object) -> SyncObjConf:
    """PySyncObj's configuration: its times are ours, and it ticks, compacts and changes members only when it is told to."""
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
    """PySyncObj with one replicated method, and its private fields under names of ours."""

    _SyncObj__raftLastApplied: int
    _SyncObj__newAppendEntriesTime: float

    def __init__(
        self,
        settings: RaftSettings,
        *,
        raft_log: RaftLog,
        bridge: SnapshotBridge,
        hooks: CoreHooks,
        make_transport: Callable[..., Transport],
    ) -> None:
        self._hooks = hooks
        self._slice_entries = settings.apply_slice
        self._dump = _Serializer(bridge)
        conf = configuration(
            settings,
            appendEntriesBatchSizeBytes=APPEND_BYTES_MAX,
            onStateChanged=lambda _old, new: hooks.role_changed(ROLES[new]),
        )
        peers = [peer_node(peer) for peer in settings.peers]
        with _replaced(createJournal=lambda _file: raft_log, Serializer=lambda *_: self._dump):
            super().__init__(peer_node(settings.node_id), peers, conf, transportClass=make_transport, nodeClass=PeerNode)

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def submit(self, payload: bytes) -> object:
        """The one replicated method. An empty payload is a barrier: it goes through the log and changes nothing."""
        return self._hooks.apply(self.raftLastApplied + 1, payload) if payload else None

    def tick(self) -> None:
        """PySyncObj's tick. Raises what apply raised; RaftFatalError when a snapshot could not be loaded."""
        self.doTick(0)
        self.check_loaded()

    def load_snapshot(self) -> None:
        """Start from the newest snapshot."""
        self._SyncObj__loadDumpFile(clearJournal=False)
        self.check_loaded()

    def check_loaded(self) -> None:
        """Raises RaftFatalError when a snapshot could not be loaded; PySyncObj itself only logs that."""
        if self._dump.failure is not None:
            raise RaftFatalError(f"the snapshot could not be loaded: {self._dump.failure}") from self._dump.failure

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        """Apply what is committed, a slice at a time, so that heartbeats and messages get their turn between two slices.

        PySyncObj applies all of it in one go, and then tells the followers of the commit with a message of its own. Here they are told with
        the next entries, or after `COMMIT_TOLD_AFTER`.
        """
        end = min(self._SyncObj__raftCommitIndex, self._SyncObj__raftLastApplied + self._slice_entries)
        if end == self._SyncObj__raftLastApplied:
            return False
        began = syncobj.monotonicTime()
        first = self._SyncObj__raftLog[0][1]
        while self._SyncObj__raftLastApplied < end:
            payload, index, term = self._SyncObj__raftLog[self._SyncObj__raftLastApplied + 1 - first]
            subscribers = self._SyncObj__commandsWaitingCommit.pop(index, ())
            value = self._SyncObj__doApplyCommand(payload)
            for subscriber_term, callback in subscribers:
                if subscriber_term == term:
                    callback(value, FAIL_REASON.SUCCESS)
                else:
                    callback(None, FAIL_REASON.DISCARDED)
            self._SyncObj__raftLastApplied = index
            if syncobj.monotonicTime() - began > SLICE_SECONDS:
                break
        if self._SyncObj__raftLastApplied < self._SyncObj__raftCommitIndex:
            self._hooks.more_to_apply()
        told_at = syncobj.monotonicTime() + COMMIT_TOLD_AFTER
        self._SyncObj__newAppendEntriesTime = min(self._SyncObj__newAppendEntriesTime, told_at)
        return False

    def due_in(self) -> float:
        """Seconds until there is something to do by the clock; 0 or less when it is due."""
        now = syncobj.monotonicTime()
        if self.role == "leader":
            return cast(float, self._SyncObj__newAppendEntriesTime - now)
        return cast(float, self._SyncObj__raftElectionDeadline - now)

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802
        return self._hooks.can_campaign()

    @property
    def role(self) -> str:
        """ "follower", "candidate" or "leader"."""
        return ROLES[self._SyncObj__raftState]

    @property
    def leader_id(self) -> str:
        """Who leads, as far as this node knows; "" when it knows of none."""
        leader = self._getLeader()
        return cast(str, leader.id) if leader is not None else ""

    @property
    def no_op_index(self) -> int:
        """Index of the entry with which this node last began to lead, 0 before."""
        return cast(int, self._SyncObj__noopIDx or 0)

    @property
    def transfer_pending(self) -> bool:
        """Whether the leader asked this node to take over."""
        return cast(bool, self._SyncObj__transferInProgress)

    def match_index(self, peer: str) -> int:
        """Up to where the peer's log is known to be equal and durable."""
        return cast(int, self._SyncObj__raftMatchIndex.get(peer_node(peer), 0))

    def set_match_index(self, peer: str, index: int) -> None:
        """Forget what a peer acknowledged."""
        if peer_node(peer) in self._SyncObj__raftMatchIndex:
            self._SyncObj__raftMatchIndex[peer_node(peer)] = index

    def next_index(self, peer: str) -> int:
        """The next entry to send to the peer."""
        return cast(int, self._SyncObj__raftNextIndex.get(peer_node(peer), 0))

    def set_next_index(self, peer: str, index: int) -> None:
        """Say what to send next."""
        if peer_node(peer) in self._SyncObj__raftNextIndex:
            self._SyncObj__raftNextIndex[peer_node(peer)] = index

    def set_peers(self, voters: Iterable[str], others: Iterable[str]) -> None:
        """Who else votes, and who else only gets the log. A leader begins with a newcomer at its log's end and knows nothing of it."""
        counted, uncounted = set(map(peer_node, voters)), set(map(peer_node, others))
        known: set[PeerNode] = self.otherNodes | self.readonlyNodes
        for node in known - counted - uncounted:
            self._SyncObj__raftNextIndex.pop(node, None)
            self._SyncObj__raftMatchIndex.pop(node, None)
            self._SyncObj__lastResponseTime.pop(node, None)
        if self.role == "leader":
            for node in (counted | uncounted) - known:
                self._SyncObj__raftNextIndex[node] = self._SyncObj__raftLog[-1][1] + 1
                self._SyncObj__raftMatchIndex[node] = 0
                self._SyncObj__lastResponseTime[node] = syncobj.monotonicTime()
        self._SyncObj__otherNodes, self._SyncObj__readonlyNodes = counted, uncounted

    def append_members(self, body: bytes, committed: Callable[[int], None]) -> int:
        """As the leader, append the entry that names a membership; its index. `committed` gets it when it is applied here."""
        index, term = self._SyncObj__raftLog[-1][1] + 1, self.raftCurrentTerm

        def applied(_value: None, error: int) -> None:
            if error == SUCCESS:
                committed(index)

        self._SyncObj__commandsWaitingCommit[index].append((term, applied))
        self._SyncObj__raftLog.add(bytes([MEMBERS]) + body, index, term)
        self._SyncObj__sendAppendEntries()
        return cast(int, index)

    def send_entries(self) -> None:
        """As the leader, send everybody what is next for it, or a heartbeat."""
        self._SyncObj__sendAppendEntries()

    def step_down(self) -> None:
        """As the leader, follow; as PySyncObj does when no majority answers."""
        self._SyncObj__setState(0)
        self._SyncObj__raftLeader = None

    def campaign_by(self, deadline: float) -> None:
        """Stand at `deadline` at the latest."""
        present = cast(float, vars(self)["_SyncObj__raftElectionDeadline"])
        self._SyncObj__raftElectionDeadline = min(present, deadline)
