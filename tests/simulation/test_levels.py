"""Two versions in one cluster: whichever nodes are upgraded, downgraded, lost or added, all states stay equal and no
acknowledged command is lost.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
import pytest

from cluster.errors import ClusterError
from cluster.ports import Snapshots, SnapshotSink
from node.engine import market as kept_market
from node.engine.entries import Entries
from node.engine.market import Market
from node.engine.snapshot_port import IncomingSnapshot
from snapshots.levels import states
from snapshots.levels.level import OWN, V0_2_0, Level, decode_set_level
from snapshots.levels.lowering import LossError
from snapshots.levels.narrowing import Narrowing
from snapshots.manifest import Row
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand
from statemachine.engine import Engine
from tests.simulation.directory import SnapshotDisk
from tests.simulation.exchange import ExchangeFaults, ExchangeWorld
from tests.simulation.levels import BOTH, FORMER, Change, FormerMachine, LevelWorld, Stage
from tests.simulation.observers import WatchedEngine, WatchedSnapshots
from tests.simulation.parts import Host, Machine, Process
from tests.simulation.world import ViolationError

STEPS = 1000
SEEDS = range(6)


def test_the_level_changes_while_everything_goes_wrong() -> None:
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        world = LevelWorld(seed)
        world.run(STEPS)
        counts += world.counts
    for what in (
        "upgrades",
        "downgrades",
        "level changed",
        "level returned",
        "prepared at the entry",
        "snapshots taken",
        "snapshots restored",
    ):
        assert counts[what] > 0, (what, counts)


def test_nodes_that_lose_their_disks_join_at_the_level_of_the_log() -> None:
    for seed in range(20, 23):
        LevelWorld(seed, faults=ExchangeFaults(lose_disk=0.002)).run(STEPS)


def with_everything(world: LevelWorld) -> LevelWorld:
    """Return a world whose clients use features that 0.2.0 does not have."""
    for client in world.clients:
        client.everything = True
    return world


def test_a_state_that_uses_a_new_feature_cannot_return_to_the_former_level() -> None:
    counts: Counter[str] = Counter()
    for seed in (3, 5, 8):
        world = with_everything(LevelWorld(seed))
        world.run(STEPS)
        counts += world.counts
    assert counts["returns refused"] > 0, counts
    assert counts["level changed"] > 0, counts


class LeaderKilled(LevelWorld):
    """A world in which the leader of a level change is killed at one step of it, up to three times in each direction.
    With `minority`, a node is killed instead when it has applied the entry that changes the level and a majority has
    not.
    """

    def __init__(self, seed: int, stage: Stage, *, minority: bool = False) -> None:
        super().__init__(seed)
        self._stage = stage
        self._minority = minority
        self.kills: Counter[Level] = Counter()

    def _go_on_with_change(self) -> None:
        super()._go_on_with_change()
        change = self._change
        if change is None or change.stage is not self._stage or self.kills[change.to] >= 3 or not self.all_vote():
            return
        running = [node for node in self.running() if len(self.running()) == len(self.ids)]
        changed = [node for node in running if self._machine(node).level == change.to]
        if self._minority and 2 * len(changed) > len(self.ids):
            return
        for node in changed if self._minority else running:
            if node == change.node or self._minority:
                self.kills[change.to] += 1
                self.crash(node, power_loss=self.rng.random() < 0.5)
                self.start(node)


@pytest.mark.parametrize(
    ("stage", "minority"),
    [(Stage.DRAINING, False), (Stage.CHECKING, False), (Stage.CHECKED, False), (Stage.PROPOSED, False), (Stage.PROPOSED, True)],
)
def test_the_leader_is_killed_at_each_step_of_a_change(stage: Stage, *, minority: bool) -> None:
    kills: Counter[Level] = Counter()
    counts: Counter[str] = Counter()
    for seed in range(30, 36):
        world = LeaderKilled(seed, stage, minority=minority)
        world.run(STEPS)
        kills += world.kills
        counts += world.counts
        if kills[V0_2_0] and counts["level changed"] and (kills[OWN] or stage in (Stage.CHECKING, Stage.CHECKED)):
            return
    pytest.fail(f"no leader was killed on the way up and back: {kills}, {counts}")


class PreparedReturns(LevelWorld):
    """A world in which some nodes have prepared the return to the former level before it happens, and the others
    convert their whole state then.
    """

    def step(self, *, faults: bool, load: bool) -> None:
        if self.counts["level changed"] and self.rng.random() < 0.2:
            self._prepare_return(self.rng.choice(self.ids))
        super().step(faults=faults, load=load)

    def _prepare_return(self, node: str) -> None:
        """Prepare it from the state of this moment. The next snapshot is written in full, and ends it."""
        process = self.hosts[node].process
        if process is None or self.software[node] is not BOTH:
            return
        machine, port = self._machine(node), self._parts[node].snapshots
        if machine.level != OWN or machine.returning is not None or port._job is not None:
            return
        for _ in machine.engine.freeze():
            pass
        port._base = None
        returning = states.prepare_return(machine.engine, V0_2_0)
        machine.prepare_return(returning)
        try:
            returning.build({name: list(rows) for name, rows in machine.engine.tables()})
        except LossError:
            machine.prepare_return(None)

    def check_states(self, change: Change) -> None:
        for node in self.running():
            returning = self._machine(node).returning
            self.counts["prepared at the check"] += returning is not None and returning.ready
        super().check_states(change)


def test_nodes_that_prepared_a_return_have_the_state_of_those_that_did_not() -> None:
    counts: Counter[str] = Counter()
    for seed in (0, 12, 13):
        world = PreparedReturns(seed)
        world.run(STEPS)
        counts += world.counts
    assert counts["level returned"] > 0, counts
    assert counts["prepared at the check"] > 0, counts


class Unchecked(LevelWorld):
    """The level returns without a check of the states."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        with_everything(self)

    def check_states(self, change: Change) -> None:
        self.set_level(change)


class MajorityOnly(LevelWorld):
    """The level changes as soon as a majority can follow."""

    def _operate(self) -> None:
        ready = [node for node in self.ids if self.software[node] is BOTH]
        if len(ready) > len(self.ids) // 2:
            self._begin_change()
        else:
            super()._operate()

    def may_change(self) -> bool:
        return True


class Skipping(FormerMachine):
    """A node of the former version that skips entries which it does not know."""

    def apply(self, index: int, payload: bytes) -> object:
        return [] if decode_set_level(payload) is not None else super().apply(index, payload)


class SkippedEntry(MajorityOnly):
    """A world in which the level changes without a majority check, and the former version skips the entry that changes
    it.
    """

    def new_machine(self, node: str) -> Machine:
        machine = super().new_machine(node)
        if isinstance(machine, FormerMachine):
            machine.__class__ = Skipping
        return machine


class LevelOfTheProcess(LevelWorld):
    """The level is kept outside the state: a node that starts takes the level of its software."""

    def level_of_data(self, host: Host) -> Level:
        return OWN if self.software.get(host.node_id) is BOTH else V0_2_0


class GateByProcess(LevelWorld):
    """A world in which a leader writes entries at the level of its software."""

    def entries_of(self, process: Process) -> Entries:
        software = self.software[process.raft.node_id]
        return Entries(lambda: (OWN if software is BOTH else V0_2_0).abi)


class CutToFit(LevelWorld):
    """A world in which a command that the level in force cannot express is reduced to the fields that it has. The other
    fields get their defaults.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        with_everything(self)

    def run(self, steps: int = STEPS) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Narrowing, "command", _cut)
            super().run(steps)


def _cut(narrowing: Narrowing, command: AnyCommand) -> object:
    narrowing._find_added(type(command))  # refuses a command that the former version lacks
    raw = msgspec.msgpack.decode(msgspec.msgpack.encode(command))
    return narrowing._decode_former(msgspec.msgpack.encode(raw[: narrowing._lengths[raw[0]] + 1]))


class WrongSoftware(LevelWorld):
    """After the level changed, a node loses its disk and is started with the software of 0.2.0 by mistake. Later it
    gets the right software.
    """

    def _operate(self) -> None:
        former = [node for node in self.ids if self.software[node] is FORMER]
        if not self.counts["level changed"]:
            super()._operate()
        elif former and self.rng.random() < 0.05:
            self._restart(former[0], BOTH)
        elif not former and self.counts["wrong software"] < 3 and self.all_vote() and len(self.running()) == len(self.ids):
            self._choose_wrong()

    def _choose_wrong(self) -> None:
        """Give a follower the wrong software, when its leader has a snapshot of the next level to send."""
        for leader in filter(self.leads, self.ids):
            process, disk = self.hosts[leader].process, self.hosts[leader].disk
            assert process is not None
            assert isinstance(disk, SnapshotDisk)
            chance, disk.snapshot_death_chance = disk.snapshot_death_chance, 0.0  # this look is not the node's
            newest = SnapshotStore(disk.path, accepts=BOTH).newest()
            disk.snapshot_death_chance = chance
            if newest is not None and newest.abi == OWN.abi:
                self.counts["wrong software"] += 1
                self._restart(self.rng.choice([node for node in self.ids if node != leader]), FORMER, lose_disk=True)
            else:
                process.raft.request_snapshot()
            return

    def _restart(self, node: str, software: frozenset[str], *, lose_disk: bool = False) -> None:
        if self.hosts[node].process is not None:
            self.crash(node, lose_disk=lose_disk)
        self.software[node] = software
        self.start(node)

    def node_stopped(self, node: str, error: ClusterError) -> None:
        """Software of 0.2.0 stops at the entry, if it gets there. Its data is not damaged."""
        if self.software[node] is FORMER and "apply failed" in str(error) and "malformed" in str(error):
            self.crash(node, power_loss=False)
        else:
            super().node_stopped(node, error)

    def _end_faults(self) -> None:
        for node in self.ids:
            if self.software[node] is FORMER:
                self._restart(node, BOTH)
        super()._end_faults()


def test_a_node_of_the_former_version_refuses_data_of_the_next_level() -> None:
    counts: Counter[str] = Counter()
    for seed in range(3):
        world = WrongSoftware(seed)
        world.run(STEPS)
        counts += world.counts
    assert counts["wrong software"] > 0, counts


class _Careless(WatchedSnapshots):
    """A snapshot port that accepts a snapshot of any level, reads the fields that its own row types have, and skips the
    other tables.
    """

    def open_sink(self) -> SnapshotSink:
        sink = super().open_sink()
        assert isinstance(sink, IncomingSnapshot)
        sink.__class__ = _CarelessIncoming
        return sink


class _CarelessIncoming(IncomingSnapshot):
    def _check(self) -> tuple[Engine, Market]:
        tables: defaultdict[str, list[Row]] = defaultdict(list)
        manifest = self._sink.verify(lambda table, rows: tables[table].extend(rows))
        known = {name: tables[name] for name in dict(states.empty(V0_2_0).tables())}
        known["outcome"] = [(key, row) for key, row in known["outcome"] if "/" not in msgspec.msgpack.decode(key)[0]]
        market_data = kept_market.decode(self._sink.attachment(kept_market.FILE), manifest.index)
        return states.restored(V0_2_0.abi, known), market_data


class SnapshotOfTheNextLevel(WrongSoftware):
    """A world in which a node talks to peers of any level, and installs their snapshots."""

    def new_snapshots(self, host: Host, machine: Machine) -> Snapshots:
        if self.software[host.node_id] is BOTH:
            return super().new_snapshots(host, machine)
        assert isinstance(host.disk, SnapshotDisk)
        assert isinstance(machine, WatchedEngine)
        store = SnapshotStore(host.disk.path, accepts=BOTH)
        self._snapshots = _Careless(store, machine, self.ledger, host.node_id, self.time_ns)
        return self._snapshots

    def _connect(self, one: str, other: str) -> None:
        ExchangeWorld._connect(self, one, other)


@pytest.mark.parametrize(
    "mutant",
    [MajorityOnly, SkippedEntry, LevelOfTheProcess, GateByProcess, Unchecked, CutToFit, SnapshotOfTheNextLevel],
)
def test_each_protection_is_needed(mutant: type[LevelWorld]) -> None:
    """Without the protection some seed ends with a violation."""
    for seed in range(12):
        try:
            mutant(seed).run(STEPS)
        except ViolationError:
            return
    pytest.fail(f"nothing noticed {mutant.__name__}")
