"""A whole cluster in one process under one seed: virtual clock, network and disks in memory, processes that die at any step.

The code under test is the real `cluster` package. What is simulated stands behind its ports: `SimDisk` loses what was not synced and tears
the last write, `SimNetwork` delays and breaks connections, `SimSnapshots` becomes durable some time after it was begun, or never. The
checkers see only what nodes and clients show.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from cluster import hardstate
from cluster.errors import RaftFatalError
from cluster.ports import CaptureState, DiskFile, SnapshotMark, SnapshotRefusedError
from cluster.raft import ProposeResult, Raft, open_raft
from cluster.settings import RaftSettings

STEP = 0.005
"""Seconds of virtual time a step."""


class ViolationError(AssertionError):
    """A promise was broken; the text says which, at what virtual time."""


class PowerLossError(Exception):
    """Raised out of a disk operation: the process dies in the middle of it."""


class SimFile:
    """A file of a `SimDisk`: `durable` bytes, and what is in the file as the process sees it."""

    def __init__(self, disk: SimDisk, name: str) -> None:
        self._disk = disk
        self._name = name

    def append(self, data: bytes) -> None:
        self._disk.maybe_die()
        self._disk.seen[self._name] += data

    def sync(self) -> None:
        self._disk.maybe_die()
        if self._disk.honest:
            self._disk.durable[self._name] = bytes(self._disk.seen[self._name])

    def truncate(self, size: int) -> None:
        self._disk.maybe_die()
        del self._disk.seen[self._name][size:]

    def close(self) -> None:
        pass


class SimDisk:
    """A disk that keeps what was synced. `honest = False` makes `sync` a lie, to see whether the checkers notice."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.durable: dict[str, bytes] = {}
        self.seen: dict[str, bytearray] = {}
        self.death_chance = 0.0
        self.honest = True

    def maybe_die(self) -> None:
        if self.death_chance and self._rng.random() < self.death_chance:
            raise PowerLossError

    def crash(self) -> None:
        """Power loss: of what was not synced, any beginning may be there."""
        after: dict[str, bytearray] = {}
        for name in sorted(set(self.durable) | set(self.seen)):
            kept = self.durable.get(name)
            seen = bytes(self.seen.get(name, b""))
            if kept is not None and seen.startswith(kept):
                extra = seen[len(kept) :]
                after[name] = bytearray(kept + extra[: self._rng.randint(0, len(extra))])
            elif kept is not None:
                after[name] = bytearray(self._rng.choice([kept, seen]) if name in self.seen else kept)
        self.seen = after
        self.durable = {name: bytes(data) for name, data in after.items()}

    def names(self) -> list[str]:
        return sorted(self.seen)

    def read(self, name: str) -> bytes:
        if name not in self.seen:
            raise FileNotFoundError(name)
        return bytes(self.seen[name])

    def open(self, name: str) -> DiskFile:
        self.seen.setdefault(name, bytearray())
        return SimFile(self, name)

    def replace(self, name: str, data: bytes) -> None:
        self.maybe_die()
        self.seen[name] = bytearray(data)
        if self.honest:
            self.durable[name] = data

    def remove(self, name: str) -> None:
        self.maybe_die()
        self.seen.pop(name, None)
        self.durable.pop(name, None)

    def archive(self, name: str) -> None:
        self.remove(name)

    def sync_names(self) -> None:
        self.maybe_die()


class Machine:
    """The replicated state: a running hash and the commands themselves, by index."""

    def __init__(self) -> None:
        self.commands: list[tuple[int, bytes]] = []
        self.digest = b""

    def apply(self, index: int, payload: bytes) -> object:
        self.commands.append((index, payload))
        self.digest = hashlib.sha256(self.digest + index.to_bytes(8, "big") + payload).digest()
        return len(self.commands)

    def dump(self) -> bytes:
        return msgspec.msgpack.encode((self.commands, self.digest))

    def load(self, data: bytes) -> None:
        self.commands, self.digest = msgspec.msgpack.decode(data, type=tuple[list[tuple[int, bytes]], bytes])


class Stored(msgspec.Struct, frozen=True):
    """A durable snapshot."""

    mark: SnapshotMark
    state: bytes


class SimSource:
    """See `cluster.ports.SnapshotSource`."""

    def __init__(self, stored: Stored) -> None:
        self.mark = stored.mark
        self._data = msgspec.msgpack.encode(stored)
        self.size = len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + min(length, 64)]

    def close(self) -> None:
        pass


class SimSink:
    """See `cluster.ports.SnapshotSink`."""

    def __init__(self, snapshots: SimSnapshots) -> None:
        self._snapshots = snapshots
        self._data = b""

    def write(self, data: bytes) -> None:
        self._data += data

    def finish(self) -> SnapshotMark:
        try:
            stored = msgspec.msgpack.decode(self._data, type=Stored)
        except msgspec.DecodeError as error:
            raise SnapshotRefusedError(str(error)) from None
        self._snapshots.keep(stored)
        return stored.mark

    def abort(self) -> None:
        self._data = b""


class SimSnapshots:
    """See `cluster.ports.Snapshots`. `store` outlives the process; `machine` is the process's."""

    def __init__(self, store: list[Stored], machine: Machine, rng: random.Random) -> None:
        self._store = store
        self._machine = machine
        self._rng = rng
        self._running: Stored | None = None

    def keep(self, stored: Stored) -> None:
        self._store.append(stored)
        self._store.sort(key=lambda one: one.mark.index)
        del self._store[:-2]

    def newest(self) -> SnapshotMark | None:
        return self._store[-1].mark if self._store else None

    def restore(self, mark: SnapshotMark) -> None:
        assert self._store[-1].mark == mark
        self._machine.load(self._store[-1].state)

    def capture(self, mark: SnapshotMark) -> None:
        self._running = Stored(mark, self._machine.dump())

    def poll(self) -> CaptureState:
        if self._running is None:
            return CaptureState.IDLE
        if self._rng.random() < 0.9:
            return CaptureState.RUNNING
        running, self._running = self._running, None
        if self._rng.random() < 0.05:
            return CaptureState.FAILED
        self.keep(running)
        return CaptureState.DONE

    def open_source(self) -> SimSource:
        return SimSource(self._store[-1])

    def open_sink(self) -> SimSink:
        return SimSink(self)


@dataclass
class SimWire:
    """See `cluster.ports.Wire`."""

    world: World
    node_id: str
    on_message: Callable[[str, bytes], None] = lambda _peer, _data: None
    on_connected: Callable[[str], None] = lambda _peer: None
    on_disconnected: Callable[[str], None] = lambda _peer: None

    def start(
        self,
        on_message: Callable[[str, bytes], None],
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        self.on_message, self.on_connected, self.on_disconnected = on_message, on_connected, on_disconnected

    def send(self, peer: str, message: bytes) -> bool:
        return self.world.send(self.node_id, peer, message)

    def stop(self) -> None:
        pass


@dataclass
class Process:
    """A running node."""

    raft: Raft
    machine: Machine
    wire: SimWire


@dataclass
class Host:
    """What of a node outlives its process."""

    node_id: str
    disk: SimDisk
    snapshots: list[Stored] = field(default_factory=list)
    process: Process | None = None
    lost_disk: bool = False
    paused_until: float = 0.0


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong, as chances a step."""

    crash: float = 0.004
    power_loss_in_write: float = 0.0005
    cut: float = 0.006
    heal: float = 0.03
    restart: float = 0.03
    pause: float = 0.002
    lose_disk: float = 0.0
    one_way: float = 0.3


class World:
    """The cluster and its surroundings. `run` goes through a time of faults and a time of quiet, and checks all the way."""

    def __init__(
        self, seed: int, nodes: int = 3, *, faults: Faults | None = None, snapshot_entries: int = 40, trace: bool = False
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.now = 0.0
        self.faults = faults or Faults()
        self.ids = [f"n{number}" for number in range(1, nodes + 1)]
        self.hosts = {node: Host(node, SimDisk(self.rng)) for node in self.ids}
        self.links: dict[frozenset[str], bool] = {}
        self.one_way: set[tuple[str, str]] = set()
        self.queues: dict[tuple[str, str], list[tuple[float, bytes]]] = {}
        self.cut: set[frozenset[str]] = set()
        self.snapshot_entries = snapshot_entries
        self.trace: list[str] | None = [] if trace else None
        self.acknowledged: dict[bytes, int] = {}
        self.committed: dict[int, bytes] = {}
        self.leaders: dict[int, str] = {}
        self.best_commit: dict[str, int] = {}
        self.proposed = 0
        self.events = 0

    # ------------------------------------------------------------------ the surroundings

    def note(self, text: str) -> None:
        self.events += 1
        if self.trace is not None:
            self.trace.append(f"{self.now:.3f} {text}")

    def send(self, sender: str, receiver: str, data: bytes) -> bool:
        if not self.links.get(frozenset((sender, receiver))):
            return False
        if (sender, receiver) not in self.one_way:
            queue = self.queues.setdefault((sender, receiver), [])
            earliest = queue[-1][0] if queue else 0.0
            queue.append((max(earliest, self.now + self.rng.expovariate(200)), data))
        return True

    def _connect(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        a, b = self.hosts[one].process, self.hosts[other].process
        if self.links.get(pair) or pair in self.cut or a is None or b is None:
            return
        self.links[pair] = True
        self.queues.pop((one, other), None)
        self.queues.pop((other, one), None)
        a.wire.on_connected(other)
        b.wire.on_connected(one)

    def _disconnect(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        if not self.links.pop(pair, False):
            return
        self.one_way -= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            process = self.hosts[here].process
            if process is not None:
                process.wire.on_disconnected(there)

    # ------------------------------------------------------------------ processes

    def start(self, node: str) -> None:
        host = self.hosts[node]
        machine = Machine()
        wire = SimWire(self, node)
        settings = RaftSettings(
            node,
            tuple(peer for peer in self.ids if peer != node),
            snapshot_entries=self.snapshot_entries,
            rejoin=host.lost_disk,
        )
        host.disk.death_chance = 0.0
        raft = open_raft(
            settings,
            machine,
            SimSnapshots(host.snapshots, machine, self.rng),
            host.disk,
            wire,
            clock=lambda: self.now,
            randomness=self.rng,
        )
        host.lost_disk = False
        host.process = Process(raft, machine, wire)
        raft.start()
        self.note(f"start {node} at {raft.status().applied_index}")
        for peer in self.ids:
            if peer != node:
                self._connect(node, peer)

    def crash(self, node: str, *, lose_disk: bool = False) -> None:
        host = self.hosts[node]
        host.process = None
        host.disk.crash()
        if lose_disk:
            host.disk = SimDisk(self.rng)
            host.snapshots = []
            host.lost_disk = True
            self.best_commit.pop(node, None)
        self.note(f"crash {node}{' and its disk' if lose_disk else ''}")
        for peer in self.ids:
            if peer != node:
                self._disconnect(node, peer)

    def _guarded(self, node: str, action: Callable[[], None]) -> None:
        """Run a step of a node; a power loss inside is a crash, anything else it raises is a violation."""
        try:
            action()
        except PowerLossError:
            self.crash(node)
        except RaftFatalError as error:
            raise self.violation(f"{node} stopped: {error}") from error

    # ------------------------------------------------------------------ faults and load

    def _inject(self) -> None:
        rng, faults = self.rng, self.faults
        running = [node for node in self.ids if self.hosts[node].process]
        if running and rng.random() < faults.crash:
            self.crash(rng.choice(running))
        majority_holds = not any(host.lost_disk or self._on_probation(host) for host in self.hosts.values())
        if faults.lose_disk and running and majority_holds and rng.random() < faults.lose_disk:
            self.crash(rng.choice(running), lose_disk=True)
        for host in self.hosts.values():
            host.disk.death_chance = faults.power_loss_in_write if host.process else 0.0
        if running and rng.random() < faults.pause:
            self.hosts[rng.choice(running)].paused_until = self.now + rng.uniform(0.1, 2.0)
        if rng.random() < faults.cut:
            one, other = rng.sample(self.ids, 2)
            if rng.random() < faults.one_way:
                self.one_way.add((one, other))
                self.note(f"deaf {one} -> {other}")
            else:
                self.cut.add(frozenset((one, other)))
                self._disconnect(one, other)
                self.note(f"cut {one} {other}")
        if (self.cut or self.one_way) and rng.random() < faults.heal:
            self.heal()
        for node in self.ids:
            if self.hosts[node].process is None and rng.random() < faults.restart:
                self._guarded(node, lambda node=node: self.start(node))  # type: ignore[misc]  # bound at once

    def _on_probation(self, host: Host) -> bool:
        stored = hardstate.load(host.disk)
        return stored is not None and stored.probation

    def heal(self) -> None:
        """Every cut ends; what was deaf loses its connection, as a timeout would do."""
        for one, other in sorted(self.one_way):
            self._disconnect(one, other)
        self.one_way.clear()
        self.cut.clear()

    def propose(self, process: Process) -> None:
        self.proposed += 1
        payload = b"c%d" % self.proposed

        def done(result: ProposeResult) -> None:
            if result.error is None:
                self.acknowledged[payload] = result.index

        process.raft.propose(payload, done)

    # ------------------------------------------------------------------ one step, and the checks behind it

    def step(self, *, quiet: bool) -> None:
        self.now += STEP
        if not quiet:
            self._inject()
        for one in self.ids:
            for other in self.ids:
                if one < other and self.rng.random() < 0.3:
                    self._connect(one, other)
        order = list(self.ids)
        self.rng.shuffle(order)
        for node in order:
            self._step_node(node, quiet=quiet)
        self._check()

    def _step_node(self, node: str, *, quiet: bool) -> None:
        host = self.hosts[node]
        if host.process is None or host.paused_until > self.now:
            return
        process = host.process
        for peer in self.ids:
            queue = self.queues.get((peer, node), [])
            while queue and queue[0][0] <= self.now and host.process is process:
                _, data = queue.pop(0)
                self._guarded(node, lambda peer=peer, data=data: process.wire.on_message(peer, data))  # type: ignore[misc]  # bound at once
        if host.process is not process:
            return
        if process.raft.is_leader and not quiet and self.rng.random() < 0.5:
            self.propose(process)
        self._guarded(node, process.raft.tick)

    def violation(self, text: str) -> ViolationError:
        return ViolationError(f"seed {self.seed}, {self.now:.3f} s: {text}")

    def _check(self) -> None:
        for node in self.ids:
            process = self.hosts[node].process
            if process is None:
                continue
            status = process.raft.status()
            if status.role == "leader" and self.leaders.setdefault(status.term, node) != node:
                raise self.violation(f"{node} and {self.leaders[status.term]} both lead term {status.term}")
            for index, payload in process.machine.commands[-20:]:
                if self.committed.setdefault(index, payload) != payload:
                    raise self.violation(f"{node} applied {payload!r} at {index}, {self.committed[index]!r} was there")

    def check_end(self) -> None:
        """After a quiet time: all nodes alive, equal, and every acknowledged command there exactly once."""
        machines = {}
        for node in self.ids:
            process = self.hosts[node].process
            assert process is not None
            machines[node] = process.machine
        longest = max(machines.values(), key=lambda machine: len(machine.commands))
        for node, machine in machines.items():
            if machine.digest != longest.digest:
                at = machine.commands[-1:] or None
                raise self.violation(f"{node} is not where the others are: at {at}, they at {longest.commands[-1:]}")
        places = {payload: index for index, payload in longest.commands}
        if len(places) != len(longest.commands):
            raise self.violation("a command was applied twice")
        for payload, index in self.acknowledged.items():
            if places.get(payload) != index:
                raise self.violation(f"{payload!r} was acknowledged at {index} and is at {places.get(payload)}")

    def run(self, steps: int = 2000, quiet_steps: int = 1200) -> None:
        """Faults for `steps`, then quiet; raises ViolationError."""
        for node in self.ids:
            self.start(node)
        for _ in range(steps):
            self.step(quiet=False)
        self.heal()
        for host in self.hosts.values():
            host.disk.death_chance = 0.0
            host.paused_until = 0.0
            if host.process is None:
                self.start(host.node_id)
        for _ in range(quiet_steps):
            self.step(quiet=True)
        before = len(self.acknowledged)
        leaders = [host.process for host in self.hosts.values() if host.process and host.process.raft.is_leader]
        if not leaders:
            raise self.violation("nobody leads after a quiet time")
        self.propose(leaders[0])
        for _ in range(100):
            self.step(quiet=True)
        if len(self.acknowledged) == before:
            raise self.violation("no command commits after a quiet time")
        self.check_end()
