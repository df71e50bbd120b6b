"""Members are added and removed under all other faults, and the simulation detects a missing rule of membership
changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.simulation.faults import Faults
from tests.simulation.membership import Changes, MembershipWorld
from tests.simulation.membership_mutants import MUTANTS
from tests.simulation.test_histories import HISTORIES
from tests.simulation.world import ViolationError


@pytest.mark.parametrize(("seed", "nodes"), [*((seed, 3) for seed in range(3)), *((seed, 5) for seed in range(100, 102))])
def test_members_are_added_and_removed_under_faults(seed: int, nodes: int) -> None:
    world = MembershipWorld(seed, nodes)
    world.run(steps=1500)
    assert world.promised
    assert len(world.acknowledged) > 100


@pytest.mark.parametrize("seed", range(200, 202))
def test_a_single_node_grows(seed: int) -> None:
    no_cuts = Faults(cut=0.0, isolate=0.0, reset=0.0, stall=0.0)
    world = MembershipWorld(seed, 1, faults=no_cuts, changes=Changes(add=0.01, read_only=0.0))
    world.run(steps=1500)
    assert world.promised
    assert len(world.acknowledged) > 100


@pytest.mark.parametrize("seed", range(300, 302))
def test_members_are_added_and_removed_while_nodes_lose_their_disks(seed: int) -> None:
    world = MembershipWorld(seed, 3, faults=Faults(lose_disk=0.002, copies=0.0))
    world.run(steps=1500)
    assert world.promised


@pytest.mark.parametrize("seed", range(400, 402))
def test_members_are_added_and_removed_while_a_clock_is_wrong(seed: int) -> None:
    world = MembershipWorld(seed, 3, faults=Faults(clock=0.004))
    world.run(steps=1200)
    assert world.promised


def test_the_same_seed_is_the_same_history() -> None:
    def history(seed: int) -> list[object]:
        world = MembershipWorld(seed, 3, trace=True)
        world.run(steps=500)
        return [world.trace, world.committed_members, world.committed]

    assert history(7) == history(7)


@dataclass(frozen=True)
class Hunt:
    """The faults and changes of members that soon show a missing rule."""

    seeds: range = range(25)
    steps: int = 800
    faults: Faults = field(default_factory=Faults)
    changes: Changes = field(default_factory=Changes)


HUNTS = {
    "learners_count": Hunt(faults=Faults(isolate=0.01, cut=0.02), changes=Changes(add=0.05, remove=0.0, read_only=1.0)),
}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in HISTORIES])
def test_a_missing_rule_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    hunt = HUNTS.get(name, Hunt())
    for seed in hunt.seeds:
        try:
            MembershipWorld(seed, 3, faults=hunt.faults, changes=hunt.changes).run(steps=hunt.steps)
        except ViolationError as error:
            print(f"{name}: {error}")
            return
    pytest.fail(f"{name}: not noticed in {len(hunt.seeds)} seeds")


@pytest.mark.parametrize("hunt", HUNTS.values(), ids=HUNTS)
def test_with_all_rules_the_same_faults_do_no_harm(hunt: Hunt) -> None:
    for seed in hunt.seeds[:2]:
        MembershipWorld(seed, 3, faults=hunt.faults, changes=hunt.changes).run(steps=hunt.steps)
