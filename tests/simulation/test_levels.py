"""Two versions in one world: whatever is upgraded, goes back, dies or joins on the way, no node's state differs and
nothing is lost.
"""

from __future__ import annotations

from collections import Counter

import pytest

from node.engine.entries import Entries
from snapshots.levels.level import OWN, V0_2_0, Level, decode_set_level
from tests.simulation.exchange import ExchangeFaults
from tests.simulation.levels import BOTH, Change, FormerMachine, LevelWorld
from tests.simulation.parts import Host, Machine, Process
from tests.simulation.world import ViolationError

STEPS = 1000
SEEDS = range(6)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What nodes log is not looked at here."""
    caplog.set_level(60)


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
    """The world, in which clients use what 0.2.0 lacks."""
    for client in world.clients:
        client.everything = True
    return world


def test_a_state_in_which_something_new_is_in_use_does_not_return() -> None:
    counts: Counter[str] = Counter()
    for seed in (3, 5, 8):
        world = with_everything(LevelWorld(seed))
        world.run(STEPS)
        counts += world.counts
    assert counts["returns refused"] > 0, counts
    assert counts["level changed"] > 0, counts


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
    """A node of the former version that passes over what it does not know."""

    def apply(self, index: int, payload: bytes) -> object:
        return [] if decode_set_level(payload) is not None else super().apply(index, payload)


class SkippedEntry(MajorityOnly):
    """The same, and the former version skips the entry."""

    def new_machine(self, node: str) -> Machine:
        machine = super().new_machine(node)
        if isinstance(machine, FormerMachine):
            machine.__class__ = Skipping
        return machine


class LevelOfTheProcess(LevelWorld):
    """The level is kept outside the state: a node that starts takes that of its software."""

    def level_of_data(self, host: Host) -> Level:
        return OWN if self.software.get(host.node_id) is BOTH else V0_2_0


class GateByProcess(LevelWorld):
    """A leader writes entries at the level of its software."""

    def entries_of(self, process: Process) -> Entries:
        software = self.software[process.raft.node_id]
        return Entries(lambda: (OWN if software is BOTH else V0_2_0).abi)


@pytest.mark.parametrize("mutant", [MajorityOnly, SkippedEntry, LevelOfTheProcess, GateByProcess, Unchecked])
def test_each_protection_is_needed(mutant: type[LevelWorld]) -> None:
    """Without it some seed ends with a violation."""
    for seed in range(12):
        try:
            mutant(seed).run(STEPS)
        except ViolationError:
            return
    pytest.fail(f"nothing noticed {mutant.__name__}")
