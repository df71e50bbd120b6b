"""Entries whose timestamp lies in the distant future are not appended, and the guard finds which clock is wrong."""

from __future__ import annotations

import pytest

from cluster import messages as m
from cluster.clocks import AHEAD_MAX, BENCHED, SKEW_LASTS, Clocks
from cluster.membership import Member, Membership, Role
from cluster.ports import LogEntry, Timekeeper
from tests.simulation.parts import stamp_of, stamped
from tests.unit.cluster.fakes import FIRST, Node, command

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
THREE = Membership(tuple(Member(node, Role.VOTER) for node in ("n1", "n2", "n3")))


class Hands:
    """A wall clock, the time of the state, and a monotonic clock, all set by the test."""

    def __init__(self) -> None:
        self.wall = NOW
        self.reached = 0
        self.monotonic = 100.0
        timekeeper = Timekeeper(lambda: self.wall, stamp_of, lambda: self.reached)
        self.clocks = Clocks("n1", timekeeper, lambda: self.monotonic)


def at(index: int, seconds_ahead: float) -> LogEntry:
    return command(index, 1, stamped(NOW + round(seconds_ahead * SECOND), b"x"))


class TestEntries:
    def test_entries_before_the_first_one_that_is_too_far_ahead_are_accepted(self) -> None:
        hands = Hands()
        assert hands.clocks.allowed("n2", [at(2, 0), at(3, AHEAD_MAX), at(4, AHEAD_MAX + 0.001), at(5, 0)], 1) == 2
        assert hands.clocks.refused == 1

    def test_committed_entries_are_never_refused(self) -> None:
        assert Hands().clocks.allowed("n2", [at(2, 1e9), at(3, 1e9)], 2) == 1
        assert Hands().clocks.allowed("n2", [at(2, 1e9), at(3, 1e9)], 3) == 2

    def test_a_time_that_the_state_has_reached_changes_nothing(self) -> None:
        hands = Hands()
        hands.reached = NOW + 1_000 * SECOND
        assert hands.clocks.allowed("n2", [at(2, 1_000)], 1) == 1
        assert hands.clocks.allowed("n2", [at(2, 1_001)], 1) == 0

    def test_entries_without_a_stamp_are_taken(self) -> None:
        assert Hands().clocks.allowed("n2", [FIRST, command(2, 1, b"")], 0) == 2

    def test_refusals_are_logged_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        hands = Hands()
        for _ in range(100):
            hands.clocks.allowed("n2", [at(2, 3_600)], 1)
            hands.monotonic += 0.05
        assert len(caplog.records) == 1
        assert "entry 2 of the leader n2 is stamped 3600.0 s ahead of this node's clock" in caplog.text
        hands.monotonic += 60
        hands.clocks.allowed("n2", [at(2, 3_600)], 1)
        assert len(caplog.records) == 2


class TestLead:
    def test_one_refuser_of_three_is_named_and_costs_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        hands = Hands()
        hands.clocks.refused_by("n2", 5)
        assert not hands.clocks.loses_lead(THREE)
        assert "n2 refuses entry 5 of this leader" in caplog.text

    def test_two_of_three_cost_the_lead_for_a_while(self) -> None:
        hands = Hands()
        hands.clocks.refused_by("n2", 5)
        hands.clocks.refused_by("n3", 5)
        assert hands.clocks.loses_lead(THREE)
        assert hands.clocks.benched
        hands.monotonic += BENCHED
        assert not hands.clocks.benched

    def test_a_follower_that_accepted_the_entry_no_longer_refuses_it(self) -> None:
        hands = Hands()
        hands.clocks.refused_by("n2", 5)
        hands.clocks.refused_by("n3", 5)
        hands.clocks.accepted_by("n2", 5)
        assert hands.clocks.loses_lead(THREE), "everything below 5 is not 5"
        hands.clocks.accepted_by("n2", 6)
        assert not hands.clocks.loses_lead(THREE)


class TestSkew:
    def test_the_fastest_of_the_last_samples_counts(self) -> None:
        hands = Hands()
        assert hands.clocks.skew("n2") is None
        for late in (0.5, 0.001, 0.2):
            hands.clocks.heard("n2", NOW - round(late * SECOND))
        assert hands.clocks.skew("n2") == pytest.approx(-0.001)
        hands.clocks.forget("n2")
        assert hands.clocks.skew("n2") is None

    def test_a_lasting_skew_is_warned_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        hands = Hands()
        for _ in range(1_000):
            hands.clocks.heard("n2", NOW + 10 * SECOND)
            hands.monotonic += SKEW_LASTS / 100
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "the clock of n2 is 10.0 s ahead of that of n1" in caplog.text
        for _ in range(30):
            hands.clocks.heard("n2", NOW)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]

    def test_a_message_without_a_time_says_nothing_about_the_clock(self) -> None:
        hands = Hands()
        hands.clocks.heard("n2", 0)
        assert hands.clocks.skew("n2") is None


class TestNode:
    """The same checks through the guard of a node."""

    def node(self) -> Node:
        node = Node(timekeeper=Timekeeper(lambda: NOW, stamp_of, lambda: 0))
        node.connect()
        return node

    def test_a_follower_takes_what_comes_before_and_asks_for_the_entry_again(self) -> None:
        node = self.node()
        replies = node.append("n2", 1, at(2, 0), at(3, 60))
        assert node.raft_log.last_index == 2
        assert [
            (reply.next_index, reply.success, reply.from_future) for reply in replies if isinstance(reply, m.AppendReply)
        ] == [
            (3, True, False),
            (3, False, True),
        ]
        assert node.raft.status().entries_from_future == 1

    def test_a_follower_takes_an_entry_from_the_future_when_a_majority_has_it(self) -> None:
        node = self.node()
        node.append("n2", 1, at(2, 60))
        assert node.raft_log.last_index == 1
        node.append("n2", 1, at(2, 60), commit=2)
        assert (node.raft_log.last_index, node.raft_log.commit_index) == (2, 2)

    def test_entries_before_a_refused_one_are_committed(self) -> None:
        node = self.node()
        node.append("n2", 1, at(2, 0))
        assert node.raft_log.commit_index == 1
        node.append("n2", 1, at(3, 60), after=at(2, 0), commit=2)
        assert (node.raft_log.last_index, node.raft_log.commit_index) == (2, 2)

    def test_a_candidate_with_such_a_clock_gets_no_pre_vote(self) -> None:
        node = self.node()
        node.pass_time(1.0)
        for ahead, granted in ((AHEAD_MAX + 1, False), (AHEAD_MAX - 1, True)):
            term = node.raft_log.term + 1
            replies = node.hear("n3", m.PreVote(term, 9, 1, NOW + round(ahead * SECOND)))
            assert [reply.granted for reply in replies if isinstance(reply, m.PreVoteReply)] == [granted]

    def test_a_leader_that_a_majority_refuses_steps_down_and_does_not_campaign(self) -> None:
        node = self.node()
        term = node.elect()
        node.acknowledge()
        node.propose(stamped(NOW, b"x"))
        for peer in node.peers:
            node.hear(peer, m.AppendReply(term, node.raft_log.last_index, True, False, True, NOW, True))
        node.raft.tick()
        assert not node.raft.is_leader
        assert [result.error is not None for result in node.results] == [True]
        node.forget_sent_messages()
        node.pass_time(BENCHED - 0.5)
        assert not node.sent_messages(m.PreVote)
        node.pass_time(1.0)
        assert node.sent_messages(m.PreVote)

    def test_a_leader_shows_how_far_the_clocks_of_its_peers_are(self) -> None:
        node = self.node()
        term = node.elect()
        node.hear("n2", m.AppendReply(term, 2, False, True, True, NOW - 60 * SECOND))
        skews = {state.member.node_id: state.clock_skew for state in node.raft.status().members}
        assert skews == {"n1": None, "n2": pytest.approx(-60.0), "n3": None}
