"""The whole exchange in one process under one seed: real engines, services, feeds and snapshots on real consensus, and
clients.

This world is `world.World`, in which each node runs the code of `statemachine`, `node` (replicated engine, service,
views, feed, snapshot port) and `snapshots` in place of the toy machine. `directory.py` says which part of `snapshots`
is replaced. Requests and answers are encoded, delayed and lost. Clients repeat requests, at other nodes, too late, or
not at all. In addition to the checks of `world`:

- what clients saw is linearizable (`loadtest.linearizability`): commands, reads behind a barrier, and reads of a node's
  own state;
- nodes with the same sequence have the same state hash, and every node restores from a snapshot the state that was
  captured;
- each product's events have no gap and no duplicate and are the same on every node, also for readers that change nodes;
- a book that a reader rebuilds from events equals the node's book;
- the invariants of the engine hold on every node, conservation of money included;
- a snapshot with a flipped bit is refused, and its node recovers from the others.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

from cluster.errors import ClusterError
from cluster.ports import Snapshots, Timekeeper
from cluster.raft import Raft
from loadtest.linearizability import AnomalyKind, Operation, judge
from node.config.settings import AdminConfig, HttpConfig, NativeConfig, NodeAddress, NodeConfig, RaftConfig, TlsConfig
from node.engine.entries import Entries
from node.engine.principal import gateway
from node.engine.replicated_engine import stamp_of as batch_stamp
from node.engine.service import EngineService, NodeIdentity
from node.native.protocol import Answer, Control, ControlAction, Query, Submit, request_decoder
from snapshots.abi import ABI
from snapshots.errors import SnapshotError
from snapshots.naming import snapshot_paths
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand, Batch, decode_batch
from statemachine.engine import Engine
from statemachine.events import AnyOutcome
from tests.simulation.clients import ACCOUNTS, PRODUCTS, Client, Reply, answer_decoder, setup
from tests.simulation.directory import SnapshotDisk, installed
from tests.simulation.faults import Faults, Injector
from tests.simulation.incidents import Incident
from tests.simulation.observers import EVENTS_KEPT, Ledger, Reader, WatchedEngine, WatchedSnapshots
from tests.simulation.parts import Host, Machine, Process
from tests.simulation.world import STEP, World

CHECK_STEPS = 200
"""Steps between two checks of all invariants of all engines, which take a millisecond each."""

CHUNK_BYTES = 4096
"""Bytes of a chunk of a snapshot that is sent, so small that a snapshot has several."""

SNAPSHOT_ENTRIES = 35
"""Log entries between two snapshots."""

DONE_ORDERS_KEPT = 30
"""Done orders kept for an account: so few that old ones are dropped, also in snapshots."""

SKEW_NS = 2 * 10**9
"""A node's clock is wrong by at most this much, differently after each start."""

MEMORY = Path("/dev/shm")
"""The directory for the snapshots, if it exists."""

GATEWAY = gateway("simulated clients")

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class ExchangeFaults(Faults):
    """Chances of the faults that exist only here. `snapshot_...` and `writer_...`: for each fsync or rename of
    snapshots. `flip` and `pause_leader`: for each step; the pause is so long that another node may lead. `loss` and
    `late`: for each message between a client and a node; a late one takes up to 1.5 s.
    """

    disk_error: float = 0.0003
    snapshot_power_loss: float = 0.01
    writer_killed: float = 0.03
    flip: float = 0.0
    loss: float = 0.01
    late: float = 0.02
    pause_leader: float = 0.001
    transfer_leadership: float = 0.003


class ExchangeInjector(Injector):
    """Also draws the faults of snapshots."""

    def __init__(self, world: ExchangeWorld) -> None:
        super().__init__(world)
        self._exchange = world

    def inject(self) -> None:
        exchange = self._exchange
        for disk in exchange.disks():
            disk.snapshot_death_chance = exchange.chances.snapshot_power_loss
            disk.kill_chance = exchange.chances.writer_killed
        if self.chance(exchange.chances.flip):
            self.strike("flip-snapshot", exchange.rng.choice(exchange.ids), repr(exchange.rng.random()))
        leaders = [node for node in exchange.running() if exchange.leads(node)]
        if leaders and self.chance(exchange.chances.pause_leader):
            self.strike("pause", exchange.rng.choice(leaders), repr(exchange.rng.uniform(0.4, 1.5)))
        super().inject()

    def carry_out(self, incident: Incident) -> None:
        if incident.kind == "flip-snapshot":
            self._exchange.flip(incident.args[0], float(incident.args[1]))
        else:
            super().carry_out(incident)


class RefusedStartError(Exception):
    """A node refuses to start on a snapshot that it cannot trust. This is the correct behaviour."""


@dataclass
class Running:
    """The parts of a running node other than its Raft. `soon` are the calls that its event loop makes next."""

    service: EngineService
    snapshots: WatchedSnapshots
    soon: deque[Callable[[], None]]


class ExchangeWorld(World):
    """A cluster of exchanges, and its clients. One object serves for one run.

    Args:
        rocks: store snapshots in RocksDB, which takes longer and is not reproducible byte for byte.

    Attributes:
        flipped: the damaged snapshot of a node that has one.
        refused_starts: how often a start detected one.
    """

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        *,
        faults: ExchangeFaults | None = None,
        snapshot_entries: int = SNAPSHOT_ENTRIES,
        trace: bool = False,
        incidents: Sequence[Incident] | None = None,
        rocks: bool = False,
    ) -> None:
        self.chances = faults or ExchangeFaults()
        self._directory = tempfile.TemporaryDirectory(prefix="quorumbook-", dir=MEMORY if MEMORY.is_dir() else None)
        self._rocks = rocks
        self.flipped: dict[str, Path] = {}
        self.refused_starts = 0
        self.counts: Counter[str] = Counter()
        self._parts: dict[str, Running] = {}
        self._mail: list[tuple[float, int, Callable[[], None]]] = []
        self._posted = 0
        self._steps = 0
        super().__init__(seed, nodes, faults=self.chances, snapshot_entries=snapshot_entries, trace=trace, incidents=incidents)
        self.injector = ExchangeInjector(self)
        self.ledger = Ledger(self.violation)
        self.readers = [Reader(self.ledger, product) for product in PRODUCTS]
        pairs = ((ACCOUNTS[0], ACCOUNTS[1]), (ACCOUNTS[1], ACCOUNTS[2]), (ACCOUNTS[2], ACCOUNTS[3]))
        self.clients = [Client(self, f"c{number}", pair) for number, pair in enumerate(pairs)]
        self._setup = self.clients[0].begin(setup(), self._next_number(), patience=1_000_000)

    # ------------------------------------------------------------------ nodes

    def disks(self) -> list[SnapshotDisk]:
        """Return the disks of all nodes."""
        return [host.disk for host in self.hosts.values() if isinstance(host.disk, SnapshotDisk)]

    def _new_host(self, node: str) -> Host:
        host = Host(node, SnapshotDisk(self.rng, Path(self._directory.name) / node))
        host.disk.fate = partial(self.script.operation, node)
        self.flipped.pop(node, None)
        return host

    def new_machine(self, node: str) -> Machine:
        return WatchedEngine(self.ledger, node)

    def new_snapshots(self, host: Host, machine: Machine) -> Snapshots:
        assert isinstance(host.disk, SnapshotDisk)
        assert isinstance(machine, WatchedEngine)
        self._snapshots = WatchedSnapshots(SnapshotStore(host.disk.path), machine, self.ledger, host.node_id, self.time_ns)
        return self._snapshots

    def entries_of(self, _process: Process) -> Entries:
        """Return how a node writes commands into the log."""
        return Entries()

    def timekeeper_of(self, host: Host, machine: Machine) -> Timekeeper:
        assert isinstance(machine, WatchedEngine)
        return Timekeeper(lambda: self.time_ns() + host.skew_ns, self.stamp_of, lambda: machine.engine.time)

    def stamp_of(self, command: bytes) -> int:
        return batch_stamp(command)

    def _open(self, host: Host) -> Process:
        try:
            process = super()._open(host)
        except (SnapshotError, ClusterError) as error:
            if host.node_id not in self.flipped or not _is_damage(error):
                raise self.violation(f"{host.node_id} cannot start: {error}") from error
            raise RefusedStartError(str(error)) from error
        assert isinstance(process.machine, WatchedEngine)
        soon: deque[Callable[[], None]] = deque()
        host.skew_ns = self.rng.randint(-SKEW_NS, SKEW_NS)
        service = EngineService(
            _config(host.node_id, self.ids),
            NodeIdentity("simulation", ABI),
            process.machine,
            process.machine.feed,
            process.raft,
            later=soon.append,
            after=lambda seconds, work: self._post_at(self.now + seconds, partial(soon.append, work)),
            time_ns=lambda: self.time_ns() + host.skew_ns,
            clock=lambda: self.now,
            entries=self.entries_of(process),
        )
        self._parts[host.node_id] = Running(service, self._snapshots, soon)
        return process

    def start(self, node: str) -> None:
        try:
            super().start(node)
        except RefusedStartError as error:
            self.refused_starts += 1
            self.note(f"{node} does not start: {error}; it gets another disk".replace(self._directory.name, ""))
            self.hosts[node] = self._new_host(node)
            self.hosts[node].rejoin = True

    def crash(self, node: str, *, power_loss: bool = True, lose_disk: bool = False, harm: str = "") -> None:
        disk = self.hosts[node].disk
        assert isinstance(disk, SnapshotDisk)
        disk.die()
        self._close(self._parts.pop(node))
        super().crash(node, power_loss=power_loss, lose_disk=lose_disk, harm=harm)

    def _close(self, parts: Running) -> None:
        parts.snapshots.close()
        self.counts["snapshots taken"] += parts.snapshots.taken
        self.counts["snapshots failed"] += parts.snapshots.failed
        self.counts["snapshots received"] += parts.snapshots.received
        self.counts["snapshots restored"] += parts.snapshots.restored

    def _guarded(self, node: str, action: Callable[[], None]) -> None:
        def judged() -> None:
            try:
                action()
            except (SnapshotError, ClusterError) as error:
                if node not in self.flipped or not _is_damage(error):
                    raise
                self.note(f"{node} stops: {error}".replace(self._directory.name, ""))
                self.crash(node, power_loss=False)

        super()._guarded(node, judged)

    def leads(self, node: str) -> bool:
        """Return whether a node believes that it leads."""
        process = self.hosts[node].process
        return process is not None and process.raft.is_leader

    def transfer_leadership(self) -> None:
        """Ask the leader, as an operator, to transfer the leadership while commands are in flight."""
        for node, parts in list(self._parts.items()):
            if self.leads(node):
                self._guarded(node, partial(self._ask_to_hand_over, node, parts.service))

    def _ask_to_hand_over(self, node: str, service: EngineService) -> None:
        answers: list[msgspec.Struct] = []

        def send(answer: msgspec.Struct) -> None:
            answers.append(answer)
            self.note(f"{node} hands over: {type(answer).__name__}")
            self.counts["handovers"] += isinstance(answer, Answer)
            if len(answers) > 1:
                raise self.violation(f"{node} answers a handover twice")

        service.control(GATEWAY, Control(1, ControlAction.TRANSFER_LEADERSHIP), send)

    # ------------------------------------------------------------------ bits that flip

    def all_vote(self) -> bool:
        self.flipped = {node: path for node, path in self.flipped.items() if path.exists()}
        return super().all_vote() and not self.flipped

    def flip(self, node: str, where: float) -> None:
        """Flip a bit of a node's newest snapshot, at the fraction `where` of its files. This happens only if all other
        nodes are sound.
        """
        disk = self.hosts[node].disk
        assert isinstance(disk, SnapshotDisk)
        paths = snapshot_paths(disk.path)
        if not paths or not self.all_vote():
            return
        files = [path for path in sorted(paths[-1].iterdir()) if path.stat().st_size]
        bit = int(where * 8 * sum(path.stat().st_size for path in files))
        for path in files:
            data = bytearray(path.read_bytes())
            if bit < 8 * len(data):
                data[bit // 8] ^= 1 << bit % 8
                disk.rotted(path, bytes(data))
                break
            bit -= 8 * len(data)
        self.flipped[node] = paths[-1]
        disk.damaged = True

    # ------------------------------------------------------------------ messages of clients

    def request(self, node: str, message: Submit | Query, reply: Reply) -> None:
        """See `clients.Surroundings`."""
        data = _encode(message)
        if self.rng.random() >= self.chances.loss:
            self._post(lambda: self._arrive(node, data, reply))

    def _post(self, action: Callable[[], None]) -> None:
        """Call a function after the time that a message takes."""
        delay = self.rng.expovariate(1 / self.chances.latency)
        if self.rng.random() < self.chances.late:
            delay += self.rng.uniform(0.1, 1.5)
        self._post_at(self.now + delay, action)

    def _post_at(self, moment: float, action: Callable[[], None]) -> None:
        self._posted += 1
        heapq.heappush(self._mail, (moment, self._posted, action))

    def _arrive(self, node: str, data: bytes, reply: Reply) -> None:
        """Deliver a request to its node. A node that is down does not get it. A paused node gets it when it continues."""
        host, parts = self.hosts[node], self._parts.get(node)
        if parts is None:
            return
        if host.paused_until > self.now + STEP:
            self._post_at(host.paused_until, lambda: self._arrive(node, data, reply))
            return

        def send(answer: msgspec.Struct) -> None:
            sequence, body = parts.service.sequence, _encode(answer)
            if self.rng.random() >= self.chances.loss:
                self._post(lambda: reply(answer_decoder.decode(body), sequence))

        message = request_decoder.decode(data)
        if isinstance(message, Submit):
            self._guarded(node, lambda: parts.service.submit(GATEWAY, message, len(data), send))
        else:
            assert isinstance(message, Query)
            self._guarded(node, lambda: parts.service.query(GATEWAY, message, send))

    def on_outcome(self, command: AnyCommand, outcome: AnyOutcome, number: int) -> None:
        """See `clients.Surroundings`."""
        self.counts["duplicates"] += outcome.duplicate
        self.acknowledged.setdefault(_encode(command), outcome.sequence)
        self.newest_acknowledged = max(self.newest_acknowledged, number)

    def _next_number(self) -> int:
        self.proposed += 1
        return self.proposed

    # ------------------------------------------------------------------ one step

    def step(self, *, faults: bool, load: bool) -> None:
        self._steps += 1
        # What is due by the end of this step, so that a node finds what came while it was paused before it does anything
        # else.
        while self._mail and self._mail[0][0] <= self.now + STEP:
            heapq.heappop(self._mail)[2]()
        for client in self.clients:
            client.step(self._next_number, load=load and self._setup.over)
        self._move_readers()
        super().step(faults=faults, load=load)
        if self._steps % CHECK_STEPS == 0:
            self._check_engines()

    def _move_readers(self) -> None:
        for reader in self.readers:
            services = [parts.service for parts in self._parts.values()]
            if services and (reader.service not in services or self.rng.random() < 0.01):
                reader.move(self.rng.choice(services))

    def _step_node(self, host: Host, process: Process, *, load: bool) -> None:
        parts = self._parts[host.node_id]
        self._run_soon(host, parts)
        if host.process is process:
            super()._step_node(host, process, load=load)
        if host.process is process:
            self._guarded(host.node_id, parts.service.expire)
        if host.process is process:
            self._run_soon(host, parts)

    def _run_soon(self, host: Host, parts: Running) -> None:
        process = host.process
        while parts.soon and host.process is process:
            self._guarded(host.node_id, parts.soon.popleft())

    def _load(self, _leader: Raft) -> None:
        """Let the clients make the load."""

    # ------------------------------------------------------------------ the whole

    def run(self, steps: int = 2000) -> None:
        with self._directory, installed(self.disks, rocks=self._rocks), pytest.MonkeyPatch.context() as patch:
            patch.setattr("cluster.transfer.CHUNK_BYTES", CHUNK_BYTES)
            patch.setattr("statemachine.state.DONE_ORDERS_PER_ACCOUNT", DONE_ORDERS_KEPT)
            try:
                super().run(steps)
            finally:
                for parts in self._parts.values():
                    self._close(parts)
                self.counts += self.ledger.counts

    def _end_faults(self) -> None:
        for disk in self.disks():
            disk.snapshot_death_chance = disk.kill_chance = 0.0
        self.all_vote()
        for node in self.flipped:
            if self.hosts[node].process is not None:
                self.crash(node, power_loss=False)
        super()._end_faults()
        for node in self.ids:
            if self.hosts[node].process is None:
                self.start(node)

    def _check_engines(self) -> None:
        for node, host in self.hosts.items():
            if host.process is not None:
                try:
                    self._engine(node).check()
                except AssertionError as error:
                    raise self.violation(f"{node}: {error}") from error
        for reader in self.readers:
            reader.compare()

    def _engine(self, node: str) -> Engine:
        process = self.hosts[node].process
        assert process is not None
        assert isinstance(process.machine, WatchedEngine)
        return process.machine.engine

    @property
    def history(self) -> list[Operation]:
        """Return the history of all clients."""
        return [operation for client in self.clients for operation in client.history]

    def log(self) -> list[Batch]:
        """Return the committed log."""
        return [decode_batch(payload) for _, (payload, _) in sorted(self.committed.items())]

    def _check_end(self) -> None:
        """Check that all nodes are equal, and that what clients saw follows from what was committed."""
        members = self.members()
        hashes = {node: self._engine(node).full_hash() for node in members}
        if len(set(hashes.values())) != 1:
            raise self.violation(f"the states differ at the end: {[(n, self._engine(n).sequence) for n in members]}")
        self._check_engines()
        log = self.log()
        commands, sequence = sum(len(batch.commands) for batch in log), self._engine(members[0]).sequence
        if commands != sequence:
            raise self.violation(f"{commands} commands were seen to be applied, the sequence is {sequence}")
        verdict = judge(self.history, log)
        if not verdict.holds:
            worst = sorted(verdict.anomalies, key=lambda anomaly: list(AnomalyKind).index(anomaly.kind))
            raise self.violation("; ".join(f"{anomaly.kind.value}: {anomaly.text}" for anomaly in worst[:3]))
        self.verdict = verdict


def _is_damage(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, SnapshotError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _config(node_id: str, ids: Sequence[str]) -> NodeConfig:
    """Return the part of a configuration that a service uses."""
    return NodeConfig(
        "simulation",
        node_id,
        "",
        RaftConfig(""),
        NativeConfig("", batch_commands_max=20, queue_max=200, events_kept=EVENTS_KEPT),
        HttpConfig("", ""),
        TlsConfig("", "", ""),
        AdminConfig("", "", ""),
        [NodeAddress(one, "", "", "") for one in ids],
    )
