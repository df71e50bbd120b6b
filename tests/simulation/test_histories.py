"""Single histories that one protection decides: with the protection they do no harm, and without it the simulation
finds a violation. Random faults lead to these histories too seldom.
"""

from __future__ import annotations

import pytest

from cluster import messages as m
from cluster.membership import RemoveMember
from cluster.raft import Raft
from tests.simulation.faults import Faults
from tests.simulation.membership import MembershipWorld
from tests.simulation.membership_mutants import MUTANTS as MEMBERSHIP_MUTANTS
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import ViolationError, World


def _started(world: World) -> tuple[str, ...]:
    """Return the leader of nodes that have caught up, then the others. No message is in flight."""
    for node in world.ids:
        world.start(node)
    leader, since = "", 0.0
    while world.now < since + 1.0:
        world.step(faults=False, load=False)
        now = "".join(node for node in world.ids if _leads(world, node))
        if now != leader or not leader:
            leader, since = now, world.now
    return (leader, *(node for node in world.ids if node != leader))


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
    """Ask for a transfer of leadership until the target has caught up enough to accept it."""
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
    """A follower's acknowledgements are delayed. Meanwhile the leader transfers the leadership and gets it back, and
    the follower hears nothing of it.
    """
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
    """A follower is asked to take over, and campaigns in the next term. Its requests are lost, and the leader continues
    in the old term.
    """
    world = World(seed, faults=Faults(copies=0.0))
    leader, other, asked = _started(world)
    world.network.deaf |= {(asked, leader), (asked, other)}
    _hand_over(world, leader)
    for _ in range(20):
        world.step(faults=False, load=True)
    assert _raft(world, asked).status().term > _raft(world, leader).status().term
    _calm(world)


def a_vote_comes_twice(seed: int) -> None:
    """Two of five nodes are asked to take over, and campaign in one term. One gets a single vote, which arrives twice.
    The other gets two votes, and leads.
    """
    world = World(seed, 5, faults=Faults(copies=0.0))
    leader, one, voter, other, third = _started(world)
    world.network.deaf |= {(one, leader), (one, other), (one, third), (other, voter), (other, one)}
    for asked in (one, other):
        _raft(world, leader)._outbox.send(asked, m.TimeoutNow(_raft(world, leader).status().term))
    for _ in range(60):
        queue = world.network._queue(voter, one)
        votes = [message for message in queue if isinstance(m.decode(message[1]), m.Vote)]
        queue.extend(votes[:1])
        world.step(faults=False, load=False)
    assert _raft(world, other).status().term > 1
    _calm(world)


def two_changes_that_half_of_the_nodes_hear(seed: int) -> None:
    """A leader and its partner are cut off, and the leader removes two of five nodes. With one change at a time these
    two nodes are not a majority. With both changes they are one, and the three others are a majority of the five as
    well.
    """
    world = MembershipWorld(seed, 5, faults=Faults(copies=0.0))
    for node in world.ids:
        world.start(node)
    old = _other_leader(world, "")
    for _ in range(40):
        world.step(faults=False, load=True)
    partner, *others = (node for node in world.ids if node != old)
    world.network.deaf |= {way for here in (old, partner) for there in others for way in ((here, there), (there, here))}
    for gone in others[:2]:
        world.ask(old, RemoveMember(gone))
    world.step(faults=False, load=False)
    for here in (old, partner):
        for there in others:
            _cut(world, here, there)  # otherwise the removed nodes learn of it and stop
    _other_leader(world, old)
    for _ in range(100):
        world.step(faults=False, load=True)
    _calm(world)


def _other_leader(world: MembershipWorld, old: str) -> str:
    """Wait until another node leads."""
    for _ in range(2000):
        world.step(faults=False, load=True)
        for node in world.ids:
            if node != old and world.raft_of(node).is_leader:
                return node
    raise world.violation("nobody else leads")


def two_leaders_change_the_members(seed: int) -> None:
    """The history of Ongaro's correction of 2015, with four nodes. The old leader removes a node, and nobody hears it.
    The next leader removes the old leader before anything of its own term is committed. Of the three that remain, it
    and its partner are a majority, and commit this and more. The fourth node has not heard of it and elects the old
    leader: by the old leader's log, these two are a majority as well.
    """
    world, old, gone, new = _unheard_change(seed, 4)
    kept = [node for node in world.ids if node not in (old, gone)]
    fourth = next(node for node in kept if node != new)
    for node in world.ids:
        if node not in (old, fourth):
            _cut(world, node, old)
            _cut(world, node, fourth)
    world.network.deaf.clear()
    world.disconnect(old, fourth)
    world.ask(new, RemoveMember(old))
    for _ in range(600):
        world.step(faults=False, load=True)
    _calm(world)


def nobody_hears_of_a_change(seed: int) -> None:
    """The entry of a change is cut from the log of the leader that appended it. The membership is then the former one."""
    world, *_ = _unheard_change(seed, 3)
    _calm(world)


def _unheard_change(seed: int, nodes: int) -> tuple[MembershipWorld, str, str, str]:
    """A leader that nobody hears has appended a change, and another node leads. Returns the world, the old leader, the
    node that it removed, and the new leader.
    """
    world = MembershipWorld(seed, nodes, faults=Faults(copies=0.0))
    for node in world.ids:
        world.start(node)
    old = _other_leader(world, "")
    for _ in range(40):
        world.step(faults=False, load=True)
    gone = next(node for node in world.ids if node != old)
    world.network.deaf |= {(old, other) for other in world.ids if other != old}
    world.ask(old, RemoveMember(gone))
    return world, old, gone, _other_leader(world, old)


def _cut(world: MembershipWorld, one: str, other: str) -> None:
    """Cut all connections. No message in flight arrives."""
    world.network.cut.add(frozenset((one, other)))
    world.disconnect(one, other)
    for way in ((one, other), (other, one)):
        world.network._queue(*way).clear()


HISTORIES = {
    "no_reply_term": an_answer_comes_two_leaderships_late,
    "no_stepping_down": a_candidate_that_nobody_heard,
    "change_before_own_term": two_leaders_change_the_members,
    "not_undone": nobody_hears_of_a_change,
    "votes_count_twice": a_vote_comes_twice,
    "two_changes_at_once": two_changes_that_half_of_the_nodes_hear,
}
"""The histories, by the mutant that each shows."""

ALL_MUTANTS = {**MUTANTS, **MEMBERSHIP_MUTANTS}


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_history_does_no_harm(name: str, seed: int) -> None:
    HISTORIES[name](seed)


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("seed", range(3))
def test_without_its_protection_a_history_is_a_violation(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ALL_MUTANTS[name](monkeypatch)
    with pytest.raises(ViolationError) as noticed:
        HISTORIES[name](seed)
    print(f"{name}: {noticed.value}")
