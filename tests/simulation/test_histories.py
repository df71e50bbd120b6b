"""Histories in which a protection decides, one by one: borne with it, noticed without it. Drawn faults lead to these too seldom to hunt for them."""

from __future__ import annotations

import pytest

from cluster.raft import Raft
from tests.simulation.faults import Faults
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import ViolationError, World


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What nodes log is not looked at here."""
    caplog.set_level("CRITICAL")


def _started(world: World) -> tuple[str, str, str]:
    """The leader of three nodes that are level, then the two others; nothing is under way."""
    for node in world.ids:
        world.start(node)
    leader, since = "", 0.0
    while world.now < since + 1.0:
        world.step(faults=False, load=False)
        now = "".join(node for node in world.ids if _leads(world, node))
        if now != leader or not leader:
            leader, since = now, world.now
    low, high = (node for node in world.ids if node != leader)
    return leader, low, high


def _raft(world: World, node: str) -> Raft:
    process = world.hosts[node].process
    assert process is not None
    return process.raft


def _leads(world: World, node: str) -> bool:
    return _raft(world, node).is_leader and _raft(world, node).status().ready


def _next_leader(world: World, old: str) -> str:
    """Wait until another node leads, with an entry of its term applied."""
    for _ in range(2000):
        world.step(faults=False, load=False)
        for node in world.ids:
            if node != old and _leads(world, node):
                return node
    raise world.violation("nobody else leads")


def _hand_over(world: World, leader: str) -> None:
    """Ask until somebody is level enough to take over."""
    for _ in range(200):
        if _raft(world, leader).transfer_leadership():
            return
        world.step(faults=False, load=False)
    raise world.violation(f"{leader} finds nobody to hand over to")


def _calm(world: World) -> None:
    world.heal()
    world.network.calm()
    world._recover()
    world._drain()
    world._check_end()


def an_answer_comes_two_leaderships_late(seed: int) -> None:
    """A follower's acknowledgements are held up on their way. Meanwhile the leader hands over and gets leadership back, unheard by the follower."""
    world = World(seed, faults=Faults(copies=0.0))
    leader, late, partner = _started(world)
    world.network.stall(late, leader, 3.0)
    world.network.cut.add(frozenset((late, partner)))
    world.disconnect(late, partner)
    for _ in range(20):
        world.step(faults=False, load=True)
    world.network.deaf.add((leader, late))
    _hand_over(world, leader)
    _next_leader(world, leader)
    _hand_over(world, partner)
    _next_leader(world, partner)
    for _ in range(800):
        world.step(faults=False, load=True)
    _calm(world)


def a_candidate_that_nobody_heard(seed: int) -> None:
    """A follower is asked to take over, and stands in the next term; its requests are lost, and the leader goes on in the old one."""
    world = World(seed, faults=Faults(copies=0.0))
    leader, other, asked = _started(world)
    world.network.deaf |= {(asked, leader), (asked, other)}
    _hand_over(world, leader)
    for _ in range(20):
        world.step(faults=False, load=True)
    assert _raft(world, asked).status().term > _raft(world, leader).status().term
    _calm(world)


HISTORIES = {
    "no_reply_term": an_answer_comes_two_leaderships_late,
    "no_stepping_down": a_candidate_that_nobody_heard,
}
"""By the mutant that each shows."""


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_history_is_borne(name: str, seed: int) -> None:
    HISTORIES[name](seed)


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("seed", range(3))
def test_without_its_protection_a_history_ends_badly(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises(ViolationError) as noticed:
        HISTORIES[name](seed)
    print(f"{name}: {noticed.value}")
