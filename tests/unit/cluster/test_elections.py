"""Pre-vote: no node raises its term before a majority says that it would vote for it."""

from __future__ import annotations

import random

import pytest

from cluster import messages as m
from cluster.elections import PreVoting
from cluster.settings import RaftSettings
from tests.unit.cluster.fakes import Node, command, led_by_n2
from tests.waiting import Clock

SETTINGS = RaftSettings("n1", ("n2", "n3"))


def new() -> tuple[PreVoting, Clock]:
    clock = Clock()
    return PreVoting(SETTINGS, clock, random.Random(1)), clock


def asking() -> Node:
    """Return a node that has lost its leader and asks the other nodes whether they would vote for it."""
    node = led_by_n2()
    node.guard.on_disconnected("n2")
    node.pass_time(0.12)
    assert node.sent_messages(m.PreVote, "n3")
    node.forget_sent_messages()
    return node


def test_a_round_is_won_once_by_a_majority_of_different_peers() -> None:
    voting, _ = new()
    assert voting.round_due(3)
    voting.granted("n2", 3)
    voting.granted("n2", 3)
    assert not voting.won(3, 2)
    voting.granted("n3", 3)
    assert voting.won(3, 2)
    assert not voting.won(3, 2)


def test_answers_of_another_term_do_not_count() -> None:
    voting, _ = new()
    voting.round_due(3)
    voting.granted("n2", 2)
    assert not voting.won(3, 1)
    voting.granted("n2", 3)
    assert not voting.won(4, 1)


def test_a_round_ends_and_another_begins_without_old_answers() -> None:
    voting, clock = new()
    voting.round_due(3)
    voting.granted("n2", 3)
    assert not voting.round_due(3)
    clock.now += SETTINGS.election_timeout_min
    assert not voting.won(3, 1)
    assert voting.round_due(3)
    assert not voting.won(3, 1)


def test_a_leader_is_fresh_for_the_shortest_election_timeout() -> None:
    voting, clock = new()
    assert not voting.leader_is_fresh()
    voting.heard_leader()
    clock.now += SETTINGS.election_timeout_min * 0.99
    assert voting.leader_is_fresh()
    clock.now += SETTINGS.election_timeout_min * 0.02
    assert not voting.leader_is_fresh()
    voting.heard_leader()
    voting.leader_lost()
    assert not voting.leader_is_fresh()


def test_the_delay_after_a_lost_leader_is_short_and_random() -> None:
    voting, _ = new()
    delays = {voting.short_delay() for _ in range(20)}
    assert len(delays) == 20
    assert all(0 < delay < SETTINGS.election_timeout_min for delay in delays)


class TestOfANode:
    def test_without_a_reachable_majority_it_does_not_even_ask(self) -> None:
        node = Node(nodes=5)
        node.connect("n2")
        node.pass_time(3.0)
        assert node.wire.sent == []
        assert node.raft_log.term == 0

    def test_a_node_repeats_its_pre_vote_without_raising_its_term(self) -> None:
        node = Node()
        node.connect()
        node.pass_time(3.0)
        assert len(node.sent_messages(m.PreVote, "n2")) > 3
        assert {message.term for message in node.sent_messages(m.PreVote)} == {1}
        assert node.raft_log.term == 0
        assert node.sent_messages(m.RequestVote) == []

    def test_a_node_with_a_reachable_majority_campaigns(self) -> None:
        node = Node(nodes=5)
        node.connect()
        node.pass_time(0.7)
        node.hear("n2", m.PreVoteReply(1, True, 0))
        node.pass_time(0.02)
        assert node.sent_messages(m.RequestVote) == []
        node.hear("n3", m.PreVoteReply(1, True, 0))
        node.pass_time(0.02)
        assert len(node.sent_messages(m.RequestVote)) == 4
        assert node.raft_log.term == 1

    def test_a_single_node_elects_itself(self) -> None:
        node = Node(nodes=1)
        node.pass_time(0.7)
        assert node.raft.is_leader
        node.propose(b"alone")
        node.pass_time(0.1)
        assert [result.error for result in node.results] == [None]

    @pytest.mark.parametrize(
        ("message", "granted"),
        [
            (m.PreVote(2, 2, 1), True),
            (m.PreVote(2, 9, 1), True),
            (m.PreVote(1, 9, 1), False),
            (m.PreVote(2, 1, 1), False),
            (m.PreVote(2, 9, 0), False),
        ],
        ids=["equal log", "longer log", "old term", "shorter log", "older log"],
    )
    def test_a_node_grants_a_pre_vote_only_for_an_up_to_date_log_in_a_new_term(self, message: m.PreVote, granted: bool) -> None:
        node = led_by_n2()
        node.pass_time(0.31)
        assert node.hear("n3", message) == [m.PreVoteReply(message.term, granted, 1)]
        assert node.raft_log.term == 1

    def test_a_node_grants_no_pre_vote_while_its_leader_lives(self) -> None:
        node = led_by_n2()
        assert node.hear("n3", m.PreVote(2, 9, 9)) == [m.PreVoteReply(2, False, 1)]
        node.guard.on_disconnected("n2")
        assert node.hear("n3", m.PreVote(2, 9, 9)) == [m.PreVoteReply(2, True, 1)]

    def test_a_leader_would_not_vote(self) -> None:
        node = Node()
        term = node.elect()
        assert node.hear("n3", m.PreVote(term + 1, 99, 99)) == [m.PreVoteReply(term + 1, False, term)]

    def test_losing_the_leaders_connection_hastens_the_pre_vote(self) -> None:
        asking()

    def test_losing_another_connection_does_not_hasten_the_question(self) -> None:
        node = led_by_n2()
        node.guard.on_disconnected("n3")
        node.pass_time(0.2)
        assert node.sent_messages(m.PreVote) == []

    def test_a_node_that_its_leader_asks_to_take_over_campaigns_at_once(self) -> None:
        node = led_by_n2()
        node.hear("n3", m.TimeoutNow(1))
        node.pass_time(0.02)
        assert node.sent_messages(m.RequestVote) == []
        node.hear("n2", m.TimeoutNow(1))
        node.pass_time(0.02)
        assert node.sent_messages(m.RequestVote) == [m.RequestVote(2, 2, 1)] * 2

    def test_a_node_that_reaches_no_majority_then_does_not_campaign_later(self) -> None:
        node = Node(nodes=5)
        node.connect("n2")
        node.append("n2", 1, command(2, 1))
        node.hear("n2", m.TimeoutNow(1))
        node.pass_time(0.02)
        node.connect("n3", "n4", "n5")
        node.append("n2", 1, after=command(2, 1))
        node.pass_time(0.2)
        assert node.sent_messages(m.RequestVote) == []


class TestTwoThatAsk:
    """The leader is down, and both other nodes notice. One of them goes first, so that they do not split the votes."""

    def test_the_smaller_id_steps_back_and_lets_the_other_campaign(self) -> None:
        node = asking()
        assert node.hear("n3", m.PreVote(2, 2, 1)) == [m.PreVoteReply(2, True, 1)]
        node.hear("n3", m.PreVoteReply(2, True, 1))
        node.pass_time(0.1)
        assert node.sent_messages(m.PreVote) == []
        assert node.sent_messages(m.RequestVote) == []

    def test_the_greater_id_goes_first_and_asks_again(self) -> None:
        node = asking()
        assert node.hear("n0", m.PreVote(2, 2, 1)) == [m.PreVote(2, 2, 1), m.PreVoteReply(2, False, 1)]
        node.hear("n3", m.PreVoteReply(2, True, 1))
        node.pass_time(0.02)
        assert node.sent_messages(m.RequestVote)

    def test_a_node_steps_back_for_a_longer_log_whatever_the_id(self) -> None:
        node = asking()
        assert node.hear("n0", m.PreVote(2, 3, 1)) == [m.PreVoteReply(2, True, 1)]

    def test_a_node_asks_again_if_the_other_does_not_campaign(self) -> None:
        node = asking()
        node.hear("n3", m.PreVote(2, 2, 1))
        node.pass_time(0.4)
        assert node.sent_messages(m.PreVote, "n3")
