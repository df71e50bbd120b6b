"""A whole cluster in one process under one seed: virtual clock, network and disks in memory, processes that die at any
step.

The code under test is the real `cluster` package. The simulated parts implement its ports (`disk.py`, `parts.py`,
`network.py`). The checkers use only what nodes and clients show:

- no term has two leaders, and a new leader's log reaches as far as anything that was applied anywhere;
- what a leader counts as acknowledged by a node is in that node's log;
- a commit index never goes back, and after a restart it is not less than that on the disk;
- nodes have the same command at the same index, and the same hash of everything before it;
- in the end every acknowledged command is in the log exactly once, at the acknowledged index; every proposal is answered
  at most once;
- a barrier that succeeds includes everything that was acknowledged before it was requested;
- when the faults end, a command commits and every node catches up within a bounded time; the cluster then continues under
  load and every node follows; a single broken link does not depose a leader.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

from cluster import hardstate
from cluster.clocks import AHEAD_MAX
from cluster.errors import ClusterError, RaftFatalError
from cluster.ports import Schemas, Snapshots, Timekeeper
from cluster.raft import ProposeResult, Raft, open_raft
from cluster.settings import RaftSettings
from cluster.status import RaftStatus
from tests.simulation.disk import KilledError, PowerLossError
from tests.simulation.faults import Faults as Faults
from tests.simulation.faults import Injector
from tests.simulation.incidents import Incident, Script
from tests.simulation.network import Network
from tests.simulation.parts import Host, Machine, Process, SimSnapshots, SimWire, new_host, stamp_of, stamped

STEP = 0.005
"""Seconds of virtual time in a step."""

COMMIT_BOUND = 2.0
CATCH_UP_BOUND = 5.0
"""Virtual seconds after the last fault within which a new command commits, and within which every node has caught up
and votes. Messages that a stall holds back may take 1.5 of them.
"""

EPOCH_NS = 1_700_000_000 * 10**9
FUTURE_NS = round((AHEAD_MAX + 1.0) * 1e9)
"""No entry is applied with a stamp further ahead of the true time. One clock may be wrong, the others are right."""

TICKS_PER_STEP = 16
"""The most ticks of a node in a step, if each leaves something to do at once."""

CALM_STEPS = 200
"""Steps for which the cluster runs under load after it has recovered, before the final checks."""

SEGMENT_BYTES = (300, 1_000, 1 << 20)
"""Lengths of log segments, drawn at each start. Some are so short that a segment ends every few entries."""

DIGEST_INTERVAL = 16
"""Log indexes between two comparisons of states: fewer than in production, because the runs are short."""


class ViolationError(AssertionError):
    """A guarantee was violated. The text says which one, at what virtual time."""


class World:
    """The cluster and its surroundings. `run` goes through a time with faults and a calm time, and checks in both.

    Attributes:
        acknowledged: index by payload, as clients were answered.
        committed: payload and hash by index, as nodes applied them.
        leaders: the leader of each term.
        trace: everything that was done, if requested.
        recovered_in: virtual seconds from the last fault until every node had caught up.
        script: the faults that happened; `incidents` are the only faults that may happen, if given (`incidents.py`).
    """

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        *,
        faults: Faults | None = None,
        snapshot_entries: int = 40,
        trace: bool = False,
        incidents: Sequence[Incident] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.now = 0.0
        self.faults = faults or Faults()
        self.ids = [f"n{number}" for number in range(1, nodes + 1)]
        self.script = Script(incidents)
        self.injector = Injector(self)
        self.hosts = {node: self._new_host(node) for node in self.ids}
        self.network = Network(self.rng, latency=self.faults.latency, copies=self.faults.copies)
        self.snapshot_entries = snapshot_entries
        self.trace: list[str] | None = [] if trace else None
        self.acknowledged: dict[bytes, int] = {}
        self.answered: set[bytes] = set()
        self.committed: dict[int, tuple[bytes, bytes]] = {}
        self.committed_last = 0
        self.leaders: dict[int, str] = {}
        self.proposed = 0
        self.newest_acknowledged = 0
        self.barriers = 0
        self.recovered_in = 0.0
        self.notes = 0
        self._lost_disks_operations = 0

    @property
    def events(self) -> int:
        """The number of delivered messages, proposed commands and disk operations, and of recorded faults, starts and
        elections.
        """
        operations = self._lost_disks_operations + sum(host.disk.operations for host in self.hosts.values())
        return self.network.delivered + self.proposed + operations + self.notes

    def note(self, text: str) -> None:
        """Record an event of the cluster."""
        self.notes += 1
        if self.trace is not None:
            self.trace.append(f"{self.now:.3f} {text}")

    def violation(self, text: str) -> ViolationError:
        return ViolationError(f"seed {self.seed}, {self.now:.3f} s: {text}")

    # ------------------------------------------------------------------ connections and processes

    def _connect(self, one: str, other: str) -> None:
        a, b = self.hosts[one].process, self.hosts[other].process
        if a is not None and b is not None and self.network.connect(one, other):
            a.wire.on_connected(other)
            b.wire.on_connected(one)

    def _reconnect(self) -> None:
        if len(self.network.links) < len(self.ids) * (len(self.ids) - 1) // 2:
            for one, other in combinations(self.ids, 2):
                if self.rng.random() < 0.3:
                    self._connect(one, other)

    def disconnect(self, one: str, other: str) -> None:
        """Break a connection. Both ends detect it."""
        if self.network.disconnect(one, other):
            for here, there in ((one, other), (other, one)):
                process = self.hosts[here].process
                if process is not None:
                    process.wire.on_disconnected(there)

    def _new_host(self, node: str) -> Host:
        host = new_host(node, self.rng)
        host.disk.fate = partial(self.script.operation, node)
        return host

    def new_machine(self, _node: str) -> Machine:
        """Return the state machine of a node that starts."""
        return Machine()

    def new_snapshots(self, host: Host, machine: Machine) -> Snapshots:
        """Return the snapshots of a node that starts."""
        return SimSnapshots(host.snapshots, machine, host.disk)

    def settings_of(self, host: Host) -> RaftSettings:
        """Return the settings of a node that starts."""
        return RaftSettings(
            host.node_id,
            tuple(peer for peer in self.ids if peer != host.node_id),
            snapshot_entries=self.snapshot_entries,
            trailing_entries=self.rng.choice((0, 10, 30)),
            rejoin=host.rejoin,
            digest_interval=DIGEST_INTERVAL,
            apply_slice=self.rng.choice((1, 3, 256)),
            segment_bytes=self.rng.choice(SEGMENT_BYTES),
        )

    def time_ns(self) -> int:
        """Return the true time."""
        return EPOCH_NS + round(self.now * 1e9)

    def timekeeper_of(self, host: Host, machine: Machine) -> Timekeeper:
        """Return the clock of a node that starts, and how its entries are stamped."""
        return Timekeeper(lambda: self.time_ns() + host.skew_ns, self.stamp_of, lambda: machine.reached)

    def schemas_of(self, _machine: Machine) -> Schemas | None:
        """Return the schemas of the commands in a node's log; None if there is only one."""
        return None

    def stamp_of(self, command: bytes) -> int:
        """Return the time at which a command was proposed, by its leader's clock. Only the command's first bytes are
        given.
        """
        return stamp_of(command)

    def members(self) -> list[str]:
        """Return the members of the cluster."""
        return self.ids

    def _open(self, host: Host) -> Process:
        machine = self.new_machine(host.node_id)
        wire = SimWire(self.network, host.node_id)
        settings = self.settings_of(host)
        snapshots = self.new_snapshots(host, machine)
        raft = open_raft(
            settings,
            machine,
            snapshots,
            host.disk,
            wire,
            clock=lambda: self.now,
            randomness=self.rng,
            timekeeper=self.timekeeper_of(host, machine),
            schemas=self.schemas_of(machine),
        )
        return Process(raft, machine, wire)

    def start(self, node: str) -> None:
        """Start a node on its disk. It may die while it starts."""
        host = self.hosts[node]
        try:
            process = self._open(host)
        except PowerLossError as death:
            host.died(power_loss=not isinstance(death, KilledError))
            self.note(f"crash {node} while it starts")
            return
        except OSError as error:
            host.died(power_loss=False)
            self.note(f"{node} cannot start: {error}")
            return
        except (ClusterError, LookupError, ValueError, TypeError) as error:
            raise self.violation(f"{node} cannot start: {error}") from error
        status = process.raft.status()
        self._check_commit_index(host, status.commit_index)
        self._check_probation(host)
        host.commit_stored = status.commit_index
        host.rejoin = False
        host.process = process
        process.raft.start()
        self.note(f"start {node}: snapshot {status.snapshot_index}, log to {status.last_log_index}, voter {status.voter}")
        for peer in self.ids:
            if peer != node:
                self._connect(node, peer)

    def _check_probation(self, host: Host) -> None:
        """Check that a node distrusts its disk if the disk was lost or damaged, until it has recovered, and never after
        a crash alone.
        """
        stored = hardstate.load(host.disk)
        recovering = stored is not None and stored.recovering
        if host.harmed and not recovering:
            raise self.violation(f"{host.node_id} trusts a log whose end was harmed")
        if recovering and not (host.rejoin or host.harmed or host.distrusts):
            raise self.violation(f"{host.node_id} distrusts its disk, which nobody harmed")
        host.distrusts, host.harmed = recovering, False

    def crash(self, node: str, *, power_loss: bool = True, lose_disk: bool = False, harm: str = "") -> None:
        """Kill a node: its process only, or with a power loss, or with the loss of the disk. `harm`: the damage at the
        end of the log (`SimDisk.harm`).
        """
        host = self.hosts[node]
        host.died(power_loss=power_loss)
        if harm and host.disk.harm(harm, host.stored_commit_index(), host.snapshot_index()):
            host.harmed = True
            host.commit_seen = host.commit_stored = 0
            self.note(f"{node}: harm to its log: {harm}")
        if lose_disk:
            self._lost_disks_operations += host.disk.operations
            self.hosts[node] = self._new_host(node)
            self.hosts[node].rejoin = True
        self.note(f"crash {node}{' and its disk' if lose_disk else ', power lost' if power_loss else ''}")
        for peer in self.ids:
            if peer != node:
                self.disconnect(node, peer)

    def _guarded(self, node: str, action: Callable[[], None]) -> None:
        """Run a step of a node. A power loss inside is a crash, a disk error ends the node, and any other exception is
        a violation.
        """
        try:
            action()
        except PowerLossError as death:
            self.crash(node, power_loss=not isinstance(death, KilledError))
        except OSError as error:
            self._end_on_error(node, error)
        except ClusterError as error:
            self.node_stopped(node, error)
        except Exception as error:
            raise self.violation(f"{node} failed: {error!r}") from error

    def node_stopped(self, node: str, error: ClusterError) -> None:
        """Note that a node stopped itself."""
        raise self.violation(f"{node} stopped: {error}") from error

    def _end_on_error(self, node: str, error: OSError) -> None:
        """Check that a node whose disk has failed sends nothing more and stops. It may start again."""
        process = self.hosts[node].process
        assert process is not None
        try:
            process.raft.tick()
        except RaftFatalError:
            self.note(f"{node} stops: {error}")
            self.crash(node, power_loss=False)
        else:
            raise self.violation(f"{node} goes on after {error}") from error

    # ------------------------------------------------------------------ faults, see `faults.py`

    def all_vote(self) -> bool:
        """Return whether no node is recovering, or about to be."""
        return not any(self._voteless(host) for host in self.hosts.values())

    def running(self) -> list[str]:
        """Return the nodes that have a process."""
        return [node for node in self.ids if self.hosts[node].process]

    @staticmethod
    def _voteless(host: Host) -> bool:
        stored = hardstate.load(host.disk)
        return host.rejoin or host.harmed or (stored is not None and stored.recovering)

    def heal(self) -> None:
        """End every cut. A connection with a silent direction breaks, as after a timeout."""
        for one, other in sorted(self.network.deaf):
            self.disconnect(one, other)
        self.network.deaf.clear()
        self.network.cut.clear()

    # ------------------------------------------------------------------ clients

    def _leading(self) -> list[Raft]:
        return [host.process.raft for host in self.hosts.values() if host.process and host.process.raft.is_leader]

    def transfer_leadership(self) -> None:
        """Ask the leader to transfer leadership to another node."""
        for raft in self._leading():
            self.note(f"hand over: {raft.transfer_leadership()}")

    def propose(self, raft: Raft) -> None:
        """Propose a command of its own kind. The client's answer goes to `acknowledged`."""
        self.proposed += 1
        number = self.proposed
        payload = stamped(self.time_ns() + self.hosts[raft.node_id].skew_ns, b"c%d" % number)

        def done(result: ProposeResult) -> None:
            if payload in self.answered:
                raise self.violation(f"{payload!r} was answered twice")
            self.answered.add(payload)
            if result.error is None:
                self.acknowledged[payload] = result.index
                self.newest_acknowledged = max(self.newest_acknowledged, number)

        raft.propose(payload, done)

    def barrier(self, raft: Raft) -> None:
        """Do a linearizable read. When it succeeds, everything that was acknowledged before it is applied."""
        needed = max(self.acknowledged.values(), default=0)

        def done(result: ProposeResult) -> None:
            self.barriers += result.error is None
            if result.error is None and raft.status().applied_index < needed:
                raise self.violation(f"a barrier passed at {raft.status().applied_index}, {needed} was acknowledged before")

        raft.barrier(done)

    # ------------------------------------------------------------------ one step, and the checks behind it

    def step(self, *, faults: bool, load: bool) -> None:
        """Advance the clock, let faults happen, let every node do its part, and check."""
        self.now += STEP
        self.script.begin_step()
        self.network.now = self.now
        if faults:
            self.injector.inject()
        self._reconnect()
        order = list(self.ids)
        self.rng.shuffle(order)
        for node in order:
            host = self.hosts[node]
            if host.process is not None and host.paused_until <= self.now:
                self._step_node(host, host.process, load=load)
        self._check()

    def _step_node(self, host: Host, process: Process, *, load: bool) -> None:
        node = host.node_id

        def deliver(sender: str, data: bytes, more: bool = False) -> None:
            if host.process is process:
                process.changed()
                self._guarded(node, lambda: process.wire.on_message(sender, data, more))

        for sender, data, more in self.network.arrivals(node):
            deliver(sender, data, more)
            if host.process is not process:
                return
        self.network.late(node, deliver)
        if host.process is not process:
            return
        if load and process.raft.is_leader:
            self._load(process.raft)
        for _ in range(TICKS_PER_STEP):
            if host.process is not process or not process.due():
                break
            self._guarded(node, process.raft.tick)

    def _load(self, leader: Raft) -> None:
        if self.rng.random() < 0.4:
            for _ in range(self.rng.choice((1, 1, 1, 4))):
                self.propose(leader)
        if self.rng.random() < 0.02:
            self.barrier(leader)

    def _check(self) -> None:
        for node in self.ids:
            process = self.hosts[node].process
            if process is None:
                continue
            for index, payload, digest in process.machine.fresh:
                if self.stamp_of(payload) > self.time_ns() + FUTURE_NS:
                    raise self.violation(f"{node} applied {payload!r} at {index}, which is of a distant future")
                before = self.committed.setdefault(index, (payload, digest))
                if before != (payload, digest):
                    raise self.violation(f"{node} applied {payload!r} at {index}; others {before[0]!r}, or another history")
                self.committed_last = max(self.committed_last, index)
            process.machine.fresh.clear()
            if process.raft.commit_index != self.hosts[node].commit_seen:
                self._check_commit_index(self.hosts[node], process.raft.commit_index)
            if process.raft.is_leader:
                self._check_leader(node, process.status())

    def _check_commit_index(self, host: Host, commit_index: int) -> None:
        """Check that the commit index never goes back: neither in a process, nor after a restart below that on the
        disk.
        """
        if commit_index < host.commit_seen:
            raise self.violation(f"{host.node_id} goes back from commit index {host.commit_seen} to {commit_index}")
        host.commit_seen = commit_index

    def _check_leader(self, node: str, status: RaftStatus) -> None:
        self._check_matches(node, status)
        known = self.leaders.get(status.term)
        if known == node:
            return
        if known is not None:
            raise self.violation(f"{node} and {known} both lead term {status.term}")
        if status.term > max(self.leaders, default=0) and status.last_log_index < self.committed_last:
            raise self.violation(f"{node} leads with a log to {status.last_log_index}, {self.committed_last} was applied")
        self.leaders[status.term] = node
        self.note(f"{node} leads term {status.term}")

    def _check_matches(self, node: str, status: RaftStatus) -> None:
        """Check that what a leader counts as acknowledged in its term is in the peer's log. The first answer of a node
        that lost its disk distinguishes it.
        """
        for state in status.members:
            peer = state.member.node_id
            process = self.hosts[peer].process
            if peer == node or process is None or not state.match_index:
                continue
            there = process.status()
            if there.voter and (
                there.term < status.term or (there.term == status.term and there.last_log_index < state.match_index)
            ):
                raise self.violation(
                    f"{node} of term {status.term} counts {peer} up to {state.match_index}; "
                    f"it is in term {there.term}, its log ends at {there.last_log_index}"
                )

    # ------------------------------------------------------------------ the whole

    def run(self, steps: int = 2000) -> None:
        """Run `steps` with faults, then a calm time under load, in which everything must recover. Raises
        ViolationError.
        """
        for node in self.ids:
            self.start(node)
        for _ in range(steps):
            self.step(faults=True, load=True)
        self._end_faults()
        self._recover()
        for _ in range(CALM_STEPS):
            self.step(faults=False, load=True)
        self._check_following()
        self._check_undisturbed()
        self._drain()
        self._check_end()

    def _end_faults(self) -> None:
        self.heal()
        self.network.calm()
        for host in self.hosts.values():
            host.disk.death_chance = host.disk.error_chance = 0.0
            host.paused_until = 0.0
            if host.process is None:
                self.start(host.node_id)

    def _recover(self) -> None:
        """Check that within the bounds a new command commits, and every node votes and has what was committed when the
        faults ended.
        """
        began, proposed, committed, behind = self.now, self.proposed, self.committed_last, set(self.members())
        while behind or self.newest_acknowledged <= proposed:
            if self.newest_acknowledged <= proposed and self.now > began + COMMIT_BOUND:
                raise self.violation(f"no command commits within {COMMIT_BOUND} s after the last fault")
            self._follow(behind, committed, began)
        self.recovered_in = self.now - began

    def _follow(self, behind: set[str], index: int, began: float) -> None:
        """Make a step. Nodes that have applied everything up to `index` and vote are removed from `behind`."""
        self.step(faults=False, load=True)
        behind.intersection_update([node for node in self.members() if not self._is_caught_up(node, index)])
        if behind and self.now > began + CATCH_UP_BOUND:
            raise self.violation(
                f"{sorted(behind)} not caught up within {CATCH_UP_BOUND} s without faults; the others were at {self.committed_last}"
            )

    def _is_caught_up(self, node: str, index: int) -> bool:
        process = self.hosts[node].process
        if process is None:
            return False
        status = process.status()
        return status.voter and status.ready and status.applied_index >= index

    def _check_following(self) -> None:
        """Check that the cluster commits, and that every node follows."""
        began, acknowledged = self.now, len(self.acknowledged)
        for _ in range(100):
            self.step(faults=False, load=True)
        if not self._leading():
            raise self.violation("nobody leads after a calm time")
        while len(self.acknowledged) == acknowledged:
            if self.now > began + COMMIT_BOUND:
                raise self.violation("no command commits after a calm time")
            self.step(faults=False, load=True)
        committed, behind = self.committed_last, set(self.members())
        while behind:
            self._follow(behind, committed, began)

    def _check_undisturbed(self) -> None:
        """Check that a follower that only loses its link to the leader, and comes back, deposes nobody."""
        if len(self.members()) < 3:
            return
        (leader,) = self._leading()
        status = leader.status()
        follower = next(node for node in self.members() if node != status.leader_id)
        self.network.cut.add(frozenset((status.leader_id, follower)))
        self.disconnect(status.leader_id, follower)
        for number in range(400):
            if number == 300:
                self.heal()
            self.step(faults=False, load=True)
            if leader.status().term != status.term or not leader.is_leader:
                raise self.violation(f"{status.leader_id} was deposed because {follower} lost its link to it")

    def _machines(self) -> dict[str, Machine]:
        hosts = [self.hosts[node] for node in self.members()]
        return {host.node_id: host.process.machine for host in hosts if host.process}

    def _drain(self, steps: int = 800) -> None:
        """Stop the load until all nodes have applied the same entries."""
        for _ in range(steps):
            self.step(faults=False, load=False)
            if len({machine.hash for machine in self._machines().values()}) == 1:
                return

    def _check_end(self) -> None:
        """Check that all nodes are equal, and that every acknowledged command is in the log exactly once, at the
        acknowledged index.
        """
        machines = self._machines()
        longest = max(machines.values(), key=lambda machine: len(machine.commands))
        for node, machine in machines.items():
            if machine.hash != longest.hash:
                raise self.violation(f"{node} is not where the others are: {machine.commands[-1:]}, they {longest.commands[-1:]}")
        places = {payload: index for index, payload in longest.commands}
        if len(places) != len(longest.commands):
            raise self.violation("a command was applied twice")
        for payload, index in self.acknowledged.items():
            if places.get(payload) != index:
                raise self.violation(f"{payload!r} was acknowledged at {index} and is at {places.get(payload)}")
