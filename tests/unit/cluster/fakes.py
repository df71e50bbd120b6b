"""One node without a cluster. The test plays its peers: it writes their messages by hand and reads the node's messages."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cluster import messages as m
from cluster.membership import Change, ChangeResult, Membership, Role, encode_members
from cluster.ports import CaptureState, LogEntry, SnapshotMark, SnapshotRefusedError, Timekeeper
from cluster.raft import ProposeResult, Raft, open_raft
from cluster.settings import RaftSettings
from tests.simulation.disk import SimDisk
from tests.simulation.parts import Machine, SimSink, SimSnapshots, SimSource, Stored

Message = TypeVar("Message", bound=m.AnyMessage)


def command(index: int, term: int, text: bytes = b"x") -> LogEntry:
    """Return a log entry with a command."""
    return LogEntry(bytes([m.COMMAND]) + text, index, term)


def no_op(index: int, term: int) -> LogEntry:
    """Return the entry with which a leader begins its term."""
    return LogEntry(bytes([m.NO_OP]), index, term)


def membership(index: int, term: int, members: Membership) -> LogEntry:
    """Return the entry that names a membership."""
    return LogEntry(bytes([m.MEMBERS]) + encode_members(members), index, term)


FIRST = no_op(1, 0)
"""What every log begins with."""


class Bomb:
    """Notes that it was unpickled."""

    fired = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (_fire, ())


def _fire() -> None:
    Bomb.fired = True


@dataclass
class Recorder:
    """A wire that keeps the node's messages."""

    sent: list[tuple[str, m.AnyMessage]] = field(default_factory=list)
    stopped: bool = False
    peers: Mapping[str, str] = field(default_factory=dict)
    removed_peers: Mapping[str, bytes] = field(default_factory=dict)
    accepts_unknown: bool = False

    def start(self, *_callbacks: object) -> None:
        pass

    def set_peers(self, peers: Mapping[str, str], removed_peers: Mapping[str, bytes]) -> None:
        self.peers, self.removed_peers = peers, removed_peers

    def send(self, peer: str, message: bytes) -> bool:
        self.sent.append((peer, m.decode(message)))
        return True

    def stop(self) -> None:
        self.stopped = True


class Snapshots(SimSnapshots):
    """Snapshots that become durable when the test says so. `refuse` makes an incoming one fail its check, which takes
    `check_polls` ticks. `broken` makes the loading fail. `looks`: how often the newest one was compared with what was
    written.
    """

    def __init__(self, store: list[Stored], machine: Machine, disk: SimDisk) -> None:
        super().__init__(store, machine, disk)
        self.state = CaptureState.DONE
        self.refuse = False
        self.broken = False
        self.check_polls = 0
        self.looks = 0

    def examine(self) -> None:
        self.looks += 1
        super().examine()

    def poll(self) -> CaptureState:
        if self._running is None or self.state is CaptureState.RUNNING:
            return CaptureState.IDLE if self._running is None else CaptureState.RUNNING
        running, self._running = self._running, None
        if self.state is CaptureState.DONE:
            self.keep(running)
        return self.state

    def restore(self, mark: SnapshotMark) -> None:
        if self.broken:
            raise ValueError("a row is missing")
        super().restore(mark)

    def open_sink(self) -> SimSink:
        if self.refuse:
            return RefusingSink(self)
        return SlowSink(self, self.check_polls)


class SlowSink(SimSink):
    """Checks for a given number of ticks."""

    def __init__(self, snapshots: SimSnapshots, polls: int) -> None:
        super().__init__(snapshots)
        self._check_polls = polls

    def finish(self) -> None:
        self._polls = self._check_polls


class RefusingSink(SimSink):
    """Reports every snapshot as damaged."""

    def poll(self) -> SnapshotMark | None:
        raise SnapshotRefusedError("another schema")


class Node:
    """Node `n1` (or another) of a cluster whose other nodes are the test."""

    def __init__(
        self,
        *,
        nodes: int = 3,
        disk: SimDisk | None = None,
        store: list[Stored] | None = None,
        rejoin: bool = False,
        join: bool = False,
        snapshot_entries: int = 1_000_000,
        trailing_entries: int = 1_000,
        timekeeper: Timekeeper | None = None,
    ) -> None:
        self.now = 100.0
        self.peers = [f"n{number}" for number in range(2, nodes + 1)]
        self.disk = disk or SimDisk(random.Random(1))
        self.store: list[Stored] = store if store is not None else []
        self.machine = Machine()
        self.wire = Recorder()
        self.snapshots = Snapshots(self.store, self.machine, self.disk)
        settings = RaftSettings(
            "n1",
            tuple(self.peers),
            rejoin=rejoin,
            join=join,
            snapshot_entries=snapshot_entries,
            trailing_entries=trailing_entries,
        )
        self.raft: Raft = open_raft(
            settings,
            self.machine,
            self.snapshots,
            self.disk,
            self.wire,
            clock=lambda: self.now,
            randomness=random.Random(1),
            timekeeper=timekeeper,
        )
        self.guard = self.raft._guard
        self.raft_log = self.raft._raft_log
        self.results: list[ProposeResult] = []
        self.changes: list[ChangeResult] = []

    def restart(self, *, power_loss: bool = True, rejoin: bool = False) -> Node:
        """Start a new process with the same disk and snapshots."""
        self.disk.crash(power_loss=power_loss)
        return Node(nodes=len(self.peers) + 1, disk=self.disk, store=self.store, rejoin=rejoin)

    def connect(self, *peers: str) -> None:
        """Connect peers (all if none is named)."""
        for peer in peers or self.peers:
            self.guard.on_connected(peer)

    def hear(self, peer: str, message: m.AnyMessage, *, more: bool = False) -> list[m.AnyMessage]:
        """Give the node a message. Returns what it answers to that peer at once. `more`: another message has arrived
        after it.
        """
        before = len(self.wire.sent)
        self.raft.receive(peer, m.encode(message), more)
        return [message for to, message in self.wire.sent[before:] if to == peer]

    def append(self, peer: str, term: int, *entries: LogEntry, after: LogEntry = FIRST, commit: int = 1) -> list[m.AnyMessage]:
        """Send AppendEntries from `peer`, with entries after the entry `after`."""
        return self.hear(peer, m.AppendEntries(term, commit, after.index, after.term, list(entries)))

    def pass_time(self, seconds: float, step: float = 0.02) -> None:
        """Tick for some time."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.raft.tick()

    def sent_messages(self, kind: type[Message], to: str | None = None) -> list[Message]:
        """Return all messages of a type that the node has sent."""
        return [message for peer, message in self.wire.sent if isinstance(message, kind) and to in (None, peer)]

    def forget_sent_messages(self) -> None:
        """Forget all messages so far."""
        self.wire.sent.clear()

    def elect(self) -> int:
        """Make the node leader with the votes of all. Returns its term."""
        self.connect()
        for _ in range(200):
            self.pass_time(0.02)
            asked = self.sent_messages(m.PreVote)
            if asked:
                break
        for peer in self.peers:
            self.hear(peer, m.PreVoteReply(asked[-1].term, True, asked[-1].term - 1))
        self.pass_time(0.02)
        term = self.raft_log.term
        for peer in self.peers:
            self.hear(peer, m.Vote(term))
        assert self.raft.is_leader
        return term

    def acknowledge(self, *peers: str) -> None:
        """Let these peers acknowledge everything, and let the node process it."""
        for peer in peers or self.peers:
            self.hear(peer, m.AppendReply(self.raft_log.term, self.raft_log.last_index + 1, False, True, True))
        self.pass_time(0.02)

    def propose(self, payload: bytes = b"order") -> None:
        """Propose, and let the messages go out. The result goes to `results`."""
        self.raft.propose(payload, self.results.append)
        self.raft.tick()

    def change(self, change: Change) -> None:
        """Request a change of the membership. The result goes to `changes`."""
        self.raft.change_members(change, self.changes.append)
        self.raft.tick()

    def members(self) -> dict[str, Role]:
        """Return the roles by id, as the node shows them."""
        return {state.member.node_id: state.member.role for state in self.raft.status().members}


def led_by_n2() -> Node:
    """Return a node that is connected to both others and has the first entry of the leader n2."""
    node = Node()
    node.connect()
    node.append("n2", 1, command(2, 1))
    return node


def stored(index: int, term: int, *, commands: int = 0) -> Stored:
    """Return a snapshot up to `index`, of a machine that applied `commands` commands just before it."""
    machine = Machine()
    for number in range(index - commands + 1, index + 1):
        machine.apply(number, b"x")
    mark = SnapshotMark(last=command(index, term), previous=command(index - 1, term))
    return Stored(mark, machine.dump())


def chunk_of(snapshot: Stored, term: int) -> m.SnapshotChunk:
    """Return the whole snapshot as one chunk."""
    source = SimSource(snapshot)
    data = source._data
    return m.SnapshotChunk(term, snapshot.mark.index, snapshot.mark.last.term, len(data), 0, data)
