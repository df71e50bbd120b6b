"""The record of each peer: what it contains, when it is cleared, and which states must never occur."""

from __future__ import annotations

import itertools

import pytest

from cluster import messages as m
from cluster.membership import Member, Membership, Role, encode_members
from cluster.messages import MEMBERS
from cluster.progress import Flow, Peers, Progress
from tests.unit.cluster.fakes import Node, led_by_n2, membership


def peers(**match: int) -> Peers:
    """Return peers with a log up to these indexes. Learners have names that begin with l."""
    found = Peers(lambda: 5.0)
    found.set_members([name for name in match if name[0] != "l"], [name for name in match if name[0] == "l"], 100)
    for name, index in match.items():
        found[name].acknowledged(index + 1)
    return found


@pytest.mark.parametrize("own", range(4))
def test_entries_of_a_majority_are_committed(own: int) -> None:
    for size in (0, 1, 2, 3, 4):
        for held in itertools.product(range(4), repeat=size):
            known = peers(**{f"n{number}": index for number, index in enumerate(held)})
            majority = (size + 1) // 2 + 1
            index = known.committed_index(own)
            assert sum(has >= index for has in (own, *held)) >= majority
            assert sum(has > index for has in (own, *held)) < majority


def test_learners_count_for_nothing() -> None:
    assert peers(n2=4, n3=1, l4=9, l5=9).committed_index(7) == 4
    assert peers(n2=0, l4=9).committed_index(7) == 0


def test_a_repeated_acknowledgement_changes_nothing() -> None:
    peer = Progress("n2", votes=True, next_index=50)
    assert peer.flow is Flow.PROBE
    assert peer.acknowledged(41)
    assert (peer.match_index, peer.next_index, peer.flow) == (40, 50, Flow.REPLICATE), (
        "entries sent since then are not sent again"
    )
    assert not peer.acknowledged(41)
    assert not peer.acknowledged(30)
    peer.go_back(10)
    assert (peer.match_index, peer.next_index) == (40, 41), "acknowledged entries are not sent again"


def test_a_peer_that_recovers_is_counted_for_nothing() -> None:
    known = peers(n2=40, n3=10)
    known["n2"].recovers(60)
    assert (known["n2"].match_index, known["n2"].recovering, known.committed_index(50)) == (0, True, 10)
    with pytest.raises(AssertionError, match="while it is recovering"):
        known["n2"].acknowledged(61)
    known["n2"].disconnected()
    assert not known["n2"].recovering


def test_a_peer_has_its_disk_only_if_it_says_so_on_the_present_connection() -> None:
    known = peers(n2=40, n3=10)
    known.connected |= {"n2", "n3"}
    assert known.acknowledging == set(), "neither has answered"
    known["n2"].answered = known["n3"].answered = True
    assert known.acknowledging == {"n2", "n3"}
    known["n2"].recovers(60)
    assert known.acknowledging == {"n3"}
    known["n3"].disconnected()
    assert known.acknowledging == set()
    known["n3"].answered = True
    known.begin_term(100)
    assert known.acknowledging == set(), "a new leader has heard nobody yet"


@pytest.mark.parametrize(("match", "following"), [(5, 5), (7, 6), (3, 12)])
def test_a_broken_invariant_of_a_progress_is_noticed(match: int, following: int) -> None:
    peer = Progress("n2", votes=True, next_index=following, match_index=match)
    with pytest.raises(AssertionError, match=f"match {match}, next {following}, the log ends at 10"):
        peer.check(10)


def test_a_change_of_the_membership_keeps_what_is_known_of_those_that_stay() -> None:
    known = peers(n2=40, n3=10)
    known.set_members(["n2", "n4"], ["n3"], 60)
    assert [(peer.node_id, peer.votes, peer.match_index, peer.next_index) for peer in known] == [
        ("n2", True, 40, 101),
        ("n3", False, 10, 101),
        ("n4", True, 0, 61),
    ]
    assert "n5" not in known


def test_learners_get_the_log_and_count_for_nothing() -> None:
    node = Node()
    node.elect()
    node.guard.on_connected("n4")
    term, end = node.raft_log.term, node.raft_log.last_index
    voters = (Member(name, Role.VOTER) for name in ("n1", "n2", "n3"))
    node.raft._replication.append(MEMBERS, encode_members(Membership((*voters, Member("n4", Role.LEARNER)))))
    node.pass_time(0.02)
    assert node.sent_messages(m.AppendEntries, "n4")
    node.hear("n4", m.AppendReply(term, end + 2, False, True, True))
    node.pass_time(0.02)
    assert node.raft.commit_index < end + 1
    node.hear("n2", m.AppendReply(term, end + 2, False, True, True))
    node.pass_time(0.02)
    assert node.raft.commit_index == end + 1


def test_a_leader_steps_down_by_the_voters_alone() -> None:
    """`leader_fallback` counts only the answers of voters."""
    node = Node()
    node.elect()
    node.guard.on_connected("n4")
    node.raft._peers.set_members(["n2", "n3"], ["n4"], node.raft_log.last_index)
    for _ in range(50):
        node.pass_time(0.02)
        node.hear("n4", m.AppendReply(node.raft_log.term, 2, False, False, True))
    assert not node.raft.is_leader


def test_a_message_with_only_a_commit_is_not_answered_unless_it_does_not_fit() -> None:
    node = led_by_n2()
    message = m.AppendEntries(1, 2, 2, 1, [], quiet=True)
    assert node.hear("n2", message) == []
    assert node.raft.commit_index == 2
    beyond = m.AppendEntries(1, 3, 3, 1, [], quiet=True)
    assert [reply.reset for reply in node.hear("n2", beyond) if isinstance(reply, m.AppendReply)] == [True]


def test_a_membership_counts_as_soon_as_it_is_in_the_log() -> None:
    node = Node()
    node.connect()
    node.append("n2", 1, membership(2, 1, Membership((Member("n1", Role.VOTER), Member("n2", Role.VOTER)))))
    assert [peer.node_id for peer in node.raft._peers] == ["n2"]
