"""The faults of a run are a list. The whole list reproduces the run, a part of it is another run, and the simulation
finds a short list that still fails.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.incidents import Incident, parse, shrink
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Faults, ViolationError, World

EVERYTHING = Faults(lose_disk=0.002, copies=0.0, power_loss_in_write=0.01, disk_error=0.004, crash=0.01)
DEADLINE = 400


def history(seed: int, incidents: list[Incident] | None = None) -> tuple[list[Incident], object]:
    world = World(seed, 3, faults=EVERYTHING, incidents=incidents)
    for node in world.ids:
        world.start(node)
    for _ in range(DEADLINE):
        world.step(faults=True, load=True)
    return world.script.happened, (world.network.sent, world.committed, world.acknowledged, world.leaders)


def test_the_whole_list_of_faults_reproduces_the_run() -> None:
    kinds: set[str] = set()
    for seed in range(5):
        happened, first = history(seed)
        assert history(seed, parse("\n".join(map(str, happened)))) == (happened, first)
        kinds |= {incident.kind for incident in happened}
    assert {"start", "disk-dies", "disk-fails", "cut", "lose-disk"} <= kinds


def test_a_part_of_the_list_is_another_reproducible_run() -> None:
    happened, first = history(5)
    part = happened[:4]
    again, second = history(5, part)
    assert set(again) <= set(part)
    assert second != first
    assert history(5, part) == (again, second)
    assert history(5, [])[0] == []


@pytest.mark.parametrize("text", ["kill n1", "12", "12 kill n1; x"])
def test_a_list_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a step, a kind"):
        parse(text)


@given(st.sets(st.integers(0, 40), max_size=5), st.integers(0, 40))
def test_shrinking_finds_the_needed_faults(needed: set[int], more: int) -> None:
    incidents = [Incident(step, "kill", ("n1",)) for step in sorted({*needed, *range(more)})]
    assert {one.step for one in shrink(incidents, lambda part: needed <= {one.step for one in part})} == needed


def test_shrinking_stops_after_its_largest_number_of_runs() -> None:
    runs: list[int] = []

    def fails(part: list[Incident]) -> bool:
        runs.append(len(part))
        return len(part) == 64

    assert len(shrink([Incident(step, "heal") for step in range(64)], fails, runs_max=20)) == 64
    assert len(runs) == 20


def test_a_violation_is_shrunk_to_few_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS["no_sync"](monkeypatch)

    def violation(seed: int, incidents: list[Incident] | None = None) -> list[Incident]:
        world = World(seed, 3, incidents=incidents)
        try:
            world.run(steps=1000)
        except ViolationError:
            return world.script.happened
        return []

    seed, happened = next((seed, happened) for seed in range(30) if (happened := violation(seed)))
    few = shrink(happened, lambda part: bool(violation(seed, part)), runs_max=25)
    assert 0 < len(few) <= len(happened)
    assert violation(seed, few)


@pytest.mark.parametrize("seed", range(3))
def test_nodes_whose_disks_fail_stop_and_come_back(seed: int) -> None:
    world = World(seed, 3, faults=Faults(disk_error=0.002), trace=True)
    world.run(steps=1200)
    assert world.trace is not None
    assert any("stops: [Errno" in line for line in world.trace)
    assert len(world.acknowledged) > 200
