"""PySyncObj alone in the same world: the checkers must find its faults first. It has no guard and no pre-vote.

It is treated better than by a real disk: a process that dies keeps its whole log, term and vote, no node loses power,
and no message arrives twice. The remaining faults are kills, cuts, pauses and stalls.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, cast

import msgspec
from pysyncobj import SyncObj, replicated, syncobj
from pysyncobj.journal import MemoryJournal
from pysyncobj.transport import Transport

from cluster.ports import Clock
from cluster.raft import ProposeError, ProposeResult, Raft
from cluster.seams import ROLES, SUCCESS, PeerNode, Randomness, _replaced, configuration, peer_node
from cluster.settings import RaftSettings
from cluster.status import RaftStatus
from tests.simulation.parts import Host, Machine, Process, SimWire
from tests.simulation.world import Faults, World

KILLS_AND_CUTS = Faults(
    crash=0.01, restart=0.1, cut=0.01, one_way=0.0, isolate=0.0, heal=0.03, reset=0.03, stall=0.01, latency=0.02,
    power_loss_in_write=0.0, transfer_leadership=0.0, copies=0.0,
)  # fmt: skip


BATCH_BYTES = 120
"""The relation to a command is that of PySyncObj's batch size to a real command: a backlog is more than one message."""


class KeptJournal(MemoryJournal):  # type: ignore[misc]  # PySyncObj has no types
    """A journal that outlives the process and keeps the commit index, as PySyncObj's journal file does."""

    def __init__(self) -> None:
        super().__init__()
        self._commit_index = 1

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803  # PySyncObj's spelling
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:  # noqa: N802  # PySyncObj's spelling
        return self._commit_index


class PlainTransport(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """Carries PySyncObj's messages unchanged."""

    ready = True

    def __init__(self, wire: SimWire) -> None:
        super().__init__(None, None, [])
        self._wire = wire

    def send(self, node: PeerNode, message: dict[str, Any]) -> bool:
        return self._wire.send(node.id, msgspec.msgpack.encode(message))

    def start(self) -> None:
        self._wire.start(
            lambda peer, data, _more: self._onMessageReceived(peer_node(peer), msgspec.msgpack.decode(data)),
            lambda peer: self._onNodeConnected(peer_node(peer)),
            lambda peer: self._onNodeDisconnected(peer_node(peer)),
        )


class PlainNode(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """The interface of `cluster.raft.Raft` that the world uses, implemented by PySyncObj alone."""

    def __init__(self, settings: RaftSettings, machine: Machine, raft_log: KeptJournal, wire: SimWire) -> None:
        self.node_id = settings.node_id
        self._machine = machine
        self._wire_transport = PlainTransport(wire)
        self.wake: Callable[[], None] = lambda: None
        conf = configuration(settings, appendEntriesBatchSizeBytes=BATCH_BYTES)
        peers = [peer_node(peer) for peer in settings.peers]
        with _replaced(createJournal=lambda _file: raft_log):
            super().__init__(
                peer_node(settings.node_id), peers, conf, transportClass=lambda *_: self._wire_transport, nodeClass=PeerNode
            )

    @replicated  # type: ignore[untyped-decorator]  # PySyncObj has no types
    def submit(self, payload: bytes) -> object:
        """Submit a command: the one replicated method."""
        return self._machine.apply(self.raftLastApplied + 1, payload)

    def start(self) -> None:
        """See `Raft.start`."""
        self._wire_transport.start()

    def tick(self) -> None:
        """See `Raft.tick`."""
        self.doTick(0)

    def due_in(self) -> float:
        """Return 0: it ticks at each step."""
        return 0.0

    @property
    def commit_index(self) -> int:
        """See `Raft.commit_index`."""
        return cast(int, self.raftCommitIndex)

    @property
    def is_leader(self) -> bool:
        """See `Raft.is_leader`."""
        return cast(bool, self._isLeader())

    def propose(self, payload: bytes, done: Callable[[ProposeResult], None]) -> None:
        """See `Raft.propose`."""
        self.wake()

        def resolved(_value: object, error: int) -> None:
            known = error == SUCCESS
            index = self.raftLastApplied + 1
            done(ProposeResult(index=index) if known else ProposeResult(error=ProposeError.OUTCOME_UNKNOWN))

        self.submit(payload, callback=resolved)

    def barrier(self, done: Callable[[ProposeResult], None]) -> None:
        """PySyncObj has none."""
        done(ProposeResult(error=ProposeError.NOT_LEADER))

    def status(self) -> RaftStatus:
        """See `Raft.status`. It has nothing about peers, because the leader's counts are not checked here."""
        leader = self._getLeader()
        raft_log = self._SyncObj__raftLog
        return RaftStatus(
            role=ROLES[self._SyncObj__raftState],
            leader_id=leader.id if leader is not None else "",
            term=self.raftCurrentTerm,
            commit_index=self.raftCommitIndex,
            applied_index=self.raftLastApplied,
            last_log_index=raft_log[-1][1],
            first_log_index=raft_log[0][1],
            snapshot_index=0,
            voter=True,
            ready=leader is not None,
            quorum=True,
            snapshots_refused=0,
        )


def install(clock: Clock, randomness: Randomness) -> None:
    """Install the world's clock and randomness, and restore the original pickle."""
    syncobj.pickle = pickle
    syncobj.monotonicTime = clock
    syncobj.random = randomness
    syncobj.PIPE_NOTIFIER_ENABLED = False


class PlainWorld(World):
    """A cluster of plain PySyncObj nodes. `run` ends with the faults, because the faults that are looked for have
    happened by then.
    """

    def __init__(self, seed: int, nodes: int = 3) -> None:
        super().__init__(seed, nodes, faults=KILLS_AND_CUTS)
        self.journals = {node: KeptJournal() for node in self.ids}

    def _open(self, host: Host) -> Process:
        install(lambda: self.now, self.rng)
        machine = self.new_machine(host.node_id)
        wire = SimWire(self.network, host.node_id)
        settings = RaftSettings(host.node_id, tuple(peer for peer in self.ids if peer != host.node_id))
        node = PlainNode(settings, machine, self.journals[host.node_id], wire)
        return Process(cast(Raft, node), machine, wire)

    def run(self, steps: int = 2000) -> None:
        """Faults for `steps`. Raises ViolationError."""
        for node in self.ids:
            self.start(node)
        for _ in range(steps):
            self.step(faults=True, load=True)

    def _check_commit_index(self, host: Host, commit_index: int) -> None:
        """PySyncObj's commit index goes back with its log. The check is for what clients lose by that."""

    def _check_leader(self, node: str, status: RaftStatus) -> None:
        if status.term > max(self.leaders, default=0):
            lost = [payload for payload, index in self.acknowledged.items() if index > status.last_log_index]
            if lost:
                raise self.violation(f"{node} leads and does not have {len(lost)} acknowledged commands, {lost[0]!r} first")
        super()._check_leader(node, status)
