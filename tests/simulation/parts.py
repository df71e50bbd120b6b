"""The parts of the simulated nodes other than the code under test: a state machine, snapshots, a wire."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from cluster import hardstate
from cluster.errors import LogDamagedError
from cluster.ports import CaptureState, OnMessage, SnapshotMark, SnapshotRefusedError
from cluster.raft import Raft
from cluster.status import RaftStatus
from tests.simulation.disk import SimDisk

CHUNK = 256
"""Bytes that the source of a snapshot returns at a time, so few that small states need many chunks."""

CHECK_POLLS = 60
"""The largest number of ticks that the check of an incoming snapshot takes."""


def stamped(time_ns: int, text: bytes) -> bytes:
    """Return a command of the toy machine: the time of its proposal by its leader's clock, and its contents."""
    return time_ns.to_bytes(8, "big") + text


def stamp_of(command: bytes) -> int:
    """Return the time in a command's first bytes, 0 if it has none."""
    return int.from_bytes(command[:8], "big") if len(command) >= 8 else 0


class Machine:
    """The replicated state: the commands by index, a running hash of them, and the time that they have reached. `fresh`
    has what was applied since the checker last looked: index, payload, hash.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[int, bytes]] = []
        self.hash = b""
        self.reached = 0
        self.fresh: list[tuple[int, bytes, bytes]] = []

    def apply(self, index: int, payload: bytes) -> object:
        self.commands.append((index, payload))
        self.reached = max(self.reached, stamp_of(payload))
        self.hash = hashlib.sha256(self.hash + index.to_bytes(8, "big") + payload).digest()
        self.fresh.append((index, payload, self.hash))
        return len(self.commands)

    def digest(self) -> bytes:
        return self.hash

    def dump(self) -> bytes:
        return msgspec.msgpack.encode((self.commands, self.hash))

    def load(self, data: bytes) -> None:
        self.commands, self.hash = msgspec.msgpack.decode(data, type=tuple[list[tuple[int, bytes]], bytes])
        self.reached = max((stamp_of(payload) for _, payload in self.commands), default=0)
        if self.commands:
            self.fresh.append((*self.commands[-1], self.hash))


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """A durable snapshot. `sound`: its bytes are those that were written."""

    mark: SnapshotMark
    state: bytes
    sound: bool = True


class SimSource:
    """See `cluster.ports.SnapshotSource`."""

    def __init__(self, stored: Stored) -> None:
        self.mark = stored.mark
        self._data = msgspec.msgpack.encode(stored)
        self.size = len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + min(length, CHUNK)]

    def close(self) -> None:
        self._data = b""


def polls_of_a_check(data: bytes) -> int:
    """Return how often an incoming snapshot is polled before it is checked: mostly once, sometimes for half a second of
    virtual time. The number depends on the snapshot and is not drawn, so that all draws of a seed stay the same.
    """
    chance = zlib.crc32(data)
    return chance // 4 % CHECK_POLLS if chance % 4 == 0 else 0


class SimSink:
    """See `cluster.ports.SnapshotSink`."""

    def __init__(self, snapshots: SimSnapshots) -> None:
        self._snapshots = snapshots
        self._data = b""
        self._polls = 0

    def write(self, data: bytes) -> None:
        self._data += data

    def finish(self) -> None:
        self._polls = polls_of_a_check(self._data)

    def poll(self) -> SnapshotMark | None:
        if self._polls:
            self._polls -= 1
            return None
        try:
            stored = msgspec.msgpack.decode(self._data, type=Stored)
        except msgspec.DecodeError as error:
            raise SnapshotRefusedError(str(error)) from None
        if not stored.sound:
            raise SnapshotRefusedError("a digest differs")
        self._snapshots.keep(stored)
        return stored.mark

    def abort(self) -> None:
        self._data = b""


class SimSnapshots:
    """See `cluster.ports.Snapshots`. `store` outlives the process. A snapshot in it is complete or absent, even if the
    process dies.
    """

    def __init__(self, store: list[Stored], machine: Machine, disk: SimDisk) -> None:
        self._store = store
        self._machine = machine
        self._disk = disk
        self._running: Stored | None = None
        self._doubted: Stored | None = None

    @property
    def damaged(self) -> bool:
        return self._doubted is not None and self._doubted is self._store[-1]

    def examine(self) -> None:
        if not self._store[-1].sound:
            self._doubted = self._store[-1]

    def keep(self, stored: Stored) -> None:
        self._disk.maybe_die()
        self._store.append(stored)
        self._store.sort(key=lambda one: one.mark.index)
        del self._store[:-2]
        self._disk.maybe_die()

    def newest(self) -> SnapshotMark | None:
        return self._store[-1].mark if self._store else None

    def restore(self, mark: SnapshotMark) -> None:
        assert self._store[-1].mark == mark
        self._machine.load(self._store[-1].state)

    def capture(self, mark: SnapshotMark) -> None:
        assert self._running is None, "two captures at a time"
        self._running = Stored(mark, self._machine.dump())

    def poll(self) -> CaptureState:
        if self._running is None:
            return CaptureState.IDLE
        chance = self._disk.rng.random()
        if chance < 0.9:
            return CaptureState.RUNNING
        running, self._running = self._running, None
        if chance > 0.995:
            return CaptureState.FAILED
        self.keep(running)
        return CaptureState.DONE

    def open_source(self) -> SimSource:
        return SimSource(self._store[-1])

    def open_sink(self) -> SimSink:
        return SimSink(self)


class Sends(Protocol):
    """The network, as a wire sees it."""

    def send(self, sender: str, receiver: str, data: bytes) -> bool:
        """Send a message."""


@dataclass
class SimWire:
    """See `cluster.ports.Wire`."""

    network: Sends
    node_id: str
    on_message: OnMessage = lambda _peer, _data, _more: None
    on_connected: Callable[[str], None] = lambda _peer: None
    on_disconnected: Callable[[str], None] = lambda _peer: None
    peers: Mapping[str, str] | None = None
    removed_peers: Mapping[str, bytes] = field(default_factory=dict)
    accepts_unknown: bool = False

    def start(
        self,
        on_message: OnMessage,
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        self.on_message, self.on_connected, self.on_disconnected = on_message, on_connected, on_disconnected

    def set_peers(self, peers: Mapping[str, str], removed_peers: Mapping[str, bytes]) -> None:
        self.peers, self.removed_peers = peers, removed_peers

    def send(self, peer: str, message: bytes) -> bool:
        return self.network.send(self.node_id, peer, message)

    def stop(self) -> None:
        pass


@dataclass
class Process:
    """A running node. Like `cluster.driver`, it ticks after it was woken, and when something is due by the clock."""

    raft: Raft
    machine: Machine
    wire: SimWire
    woken: bool = True
    _status: RaftStatus | None = None

    def __post_init__(self) -> None:
        self.raft.wake = self._wake

    def _wake(self) -> None:
        self.woken = True

    def due(self) -> bool:
        """Return whether to tick in this step."""
        if not self.woken and self.raft.due_in() > 0:
            return False
        self.woken = False
        self._status = None
        return True

    def changed(self) -> None:
        """Note that it got a message."""
        self._status = None

    def status(self) -> RaftStatus:
        """Return the status after the last tick or message."""
        if self._status is None:
            self._status = self.raft.status()
        return self._status


@dataclass
class Host:
    """The parts of a node that outlive its process. `rejoin`: its disk is new, and the operator says so until the node
    has recorded it. `harmed`: the end of its log was damaged since it ran. `distrusts`: it was recovering when it last
    started. `skew_ns`: how far its clock is ahead. `commit_seen`: the commit index below which it must not go.
    `commit_stored`: the commit index on its disk at the last start.
    """

    node_id: str
    disk: SimDisk
    snapshots: list[Stored] = field(default_factory=list)
    process: Process | None = None
    rejoin: bool = False
    harmed: bool = False
    distrusts: bool = False
    paused_until: float = 0.0
    skew_ns: int = 0
    commit_seen: int = 0
    commit_stored: int = 0

    def died(self, *, power_loss: bool) -> None:
        """Note that the process has ended."""
        self.process = None
        self.disk.crash(power_loss=power_loss)
        self.commit_seen = 0 if self.harmed else max(self.commit_stored, self.stored_commit_index())

    def snapshot_index(self) -> int:
        """Return the newest snapshot's index, 0 if there is none."""
        return self.snapshots[-1].mark.index if self.snapshots else 0

    def stored_commit_index(self) -> int:
        """Return the commit index on the disk, 0 if none can be read. The next start gives the reason."""
        try:
            stored = hardstate.load(self.disk)
        except LogDamagedError:
            return 0
        return stored.commit_index if stored else 0


def new_host(node_id: str, rng: random.Random) -> Host:
    """Return a node that never ran."""
    return Host(node_id, SimDisk(rng))
