"""The log says once why nothing can be committed."""

from __future__ import annotations

import pytest

from cluster.membership import Member, Membership, Role
from cluster.outlook import NOTED_AFTER, REPEATED_EVERY, Outlook

THREE = Membership(tuple(Member(node, Role.VOTER) for node in ("n1", "n2", "n3")))


class View:
    """What a node sees for some time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.outlook = Outlook("n1", lambda: self.now)

    def sees(self, *reached: str, leader: str = "", seconds: float = 0.0, votes: bool = True) -> None:
        end = self.now + seconds
        while True:
            self.outlook.look(THREE, {"n1", *reached}, leader, votes=votes)
            if self.now >= end:
                return
            self.now += 0.1


def test_a_lost_majority_is_logged_with_its_missing_nodes_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    view = View()
    view.sees("n2", "n3", leader="n2", seconds=10)
    assert not caplog.records
    view.sees(seconds=NOTED_AFTER - 0.5)
    assert not caplog.records, "an election or a restart is not logged"
    view.sees(seconds=20)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not reach n2, n3. Nothing is committed until 2 of 3 voters are there" in caplog.text
    view.sees("n3", leader="n3", seconds=20)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_lost_majority_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    view = View()
    view.sees(seconds=NOTED_AFTER + 2 * REPEATED_EVERY + 1)
    assert len(caplog.records) == 3


def test_a_missing_leader_is_logged_although_a_majority_is_connected(caplog: pytest.LogCaptureFixture) -> None:
    view = View()
    view.sees("n2", seconds=NOTED_AFTER + 1, votes=False)
    assert "no leader for 2 s, although a majority of the voters n1, n2, n3 is connected; n1 has no vote" in caplog.text


def test_one_of_three_that_is_missing_is_not_a_lost_majority(caplog: pytest.LogCaptureFixture) -> None:
    View().sees("n3", leader="n3", seconds=100)
    assert not caplog.records


def test_a_clock_that_is_behind_and_a_node_that_is_away_stop_commits_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    view = View()
    for _ in range(50):
        view.outlook.look(THREE, {"n1", "n3"}, "n1", votes=True, refusers=frozenset({"n3"}))
        view.now += 0.1
    (record,) = caplog.records
    assert "n3 refuses the entries of this leader" in record.message
    assert "does not reach n2" in record.message
    view.sees("n3", leader="n1", seconds=1)
    assert "a majority of the voters is connected, and n1 leads" in caplog.text


def test_a_single_slow_clock_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    view = View()
    for _ in range(50):
        view.outlook.look(THREE, {"n1", "n2", "n3"}, "n1", votes=True, refusers=frozenset({"n3"}))
        view.now += 0.1
    assert not caplog.records
