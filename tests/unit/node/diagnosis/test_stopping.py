"""Which node may stop: never one that the others need for a majority."""

from __future__ import annotations

import asyncio

import pytest

from node.deployment.statuses import Statuses
from node.diagnosis.health import stop_verdict, wait_until_may_stop
from tests.unit.node.diagnosis.statuses import member, status, three

LEARNER = [member("n1"), member("n2"), member("n3"), member("n4", role="learner")]
CUT_OFF = [member("n1"), member("n2", connected=False), member("n3")]
FIVE = [member(f"n{number}") for number in range(1, 6)]


def five(*silent: str) -> Statuses:
    """Return five voters, of which some do not answer."""
    nodes = {f"n{number}": status(f"n{number}", "leader" if number == 1 else "follower", members=FIVE) for number in range(1, 6)}
    return {node_id: None if node_id in silent else found for node_id, found in nodes.items()}


@pytest.mark.parametrize(
    ("statuses", "node_id", "may_stop", "text"),
    [
        (three(), "n1", True, "the next failure stops the exchange"),
        (three(), "n3", True, "2 of 3 voters serve"),
        (three(n3=None), "n1", False, "n3 does not serve"),
        (three(n3=None), "n3", True, "2 of 3 voters serve"),
        (three(n3=status("n3", ready=False)), "n2", False, "n3 does not serve"),
        (three(n3=status("n3", voter=False)), "n2", False, "n3 does not serve"),
        (three(n1=status("n1", "leader", members=CUT_OFF)), "n3", False, "n2 does not serve"),
        (three(n1=status("n1", "leader", members=LEARNER, members_index=9)), "n4", True, "has no vote"),
        (three(n1=status("n1", "leader", change_under_way=True)), "n3", False, "a membership change is in progress"),
        (three(n1=None), "n2", False, "no leader serves"),
        (three(), "n9", True, "is not a member"),
        ({"n1": None}, "n1", False, "no node answers"),
        ({"n1": status("n1", "leader", members=[member("n1")])}, "n1", False, "would stand still"),
        (five(), "n1", True, "4 of 5 voters serve, and 3 are needed"),
        (five("n2"), "n1", True, "the next failure stops the exchange"),
        (five("n2", "n3"), "n1", False, "n2, n3 does not serve"),
    ],
)
def test_a_node_may_stop_while_the_others_are_a_majority(statuses: Statuses, node_id: str, may_stop: bool, text: str) -> None:
    found = stop_verdict(statuses, node_id)
    assert (found.may_stop, text in found.text) == (may_stop, True), found


@pytest.mark.parametrize(
    ("statuses", "stands_still"),
    [
        (three(), False),
        (three(n3=None), False),
        (three(n2=None, n3=None), True),
        (three(n1=None), True),
        (five("n2", "n3"), False),
        (five("n2", "n3", "n4"), True),
    ],
)
def test_where_no_majority_serves_a_stop_makes_nothing_worse(statuses: Statuses, stands_still: bool) -> None:
    """The last node of a cluster that is being stopped reports for a moment that it leads."""
    assert stop_verdict(statuses, "n1").stands_still is stands_still


def test_waiting_ends_when_the_other_node_is_back() -> None:
    answers = [three(n3=None), three(n3=None), three()]

    async def ask() -> Statuses:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    found, _ = asyncio.run(wait_until_may_stop(ask, "n1", 30.0))
    assert found.may_stop


def test_waiting_has_an_end() -> None:
    async def ask() -> Statuses:
        return three(n3=None)

    found, statuses = asyncio.run(wait_until_may_stop(ask, "n1", 0.0))
    assert not found.may_stop
    assert statuses["n3"] is None
