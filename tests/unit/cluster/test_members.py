"""Changes of the membership on one node: what a leader does and refuses, when a change is in force, and what removed
and joining nodes do.
"""

from __future__ import annotations

import pytest

from cluster import messages as m
from cluster.errors import LogDamagedError, RemovedError, WireRefusedError
from cluster.membership import AddMember, ChangeError, Member, Membership, RemoveMember, Role
from cluster.ports import LogEntry
from tests.unit.cluster.fakes import FIRST, Node, chunk_of, command, membership, no_op, stored

LEARNER = AddMember(Member("n4", Role.LEARNER, "h4:1"))


def three(*more: Member, removed: tuple[str, ...] = (), without: str = "") -> Membership:
    first = tuple(Member(node, Role.VOTER) for node in ("n1", "n2", "n3") if node != without)
    return Membership((*first, *more), removed)


def leader(nodes: int = 3) -> Node:
    node = Node(nodes=nodes)
    node.elect()
    node.acknowledge()
    return node


def errors(node: Node) -> list[ChangeError | None]:
    return [result.error for result in node.changes]


def reply(node: Node, peer: str, *, voter: bool = True) -> None:
    """Receive the answer of a peer that has everything."""
    node.hear(peer, m.AppendReply(node.raft_log.term, node.raft_log.last_index + 1, False, True, voter))


class TestLeader:
    def test_a_change_counts_when_it_is_appended_and_is_reported_when_it_is_committed(self) -> None:
        node = leader()
        node.change(LEARNER)
        assert node.members()["n4"] is Role.LEARNER
        assert node.raft.status().change_under_way
        assert node.wire.peers["n4"] == "h4:1"
        assert node.changes == []
        node.acknowledge("n2")
        assert [(result.error, result.index) for result in node.changes] == [(None, node.raft.status().members_index)]
        assert not node.raft.status().change_under_way

    def test_only_one_change_is_made_at_a_time(self) -> None:
        node = leader()
        node.change(LEARNER)
        node.change(RemoveMember("n3"))
        assert errors(node) == [ChangeError.UNDER_WAY]
        node.acknowledge("n2")
        node.change(RemoveMember("n3"))
        node.acknowledge("n2")
        assert errors(node) == [ChangeError.UNDER_WAY, None, None]

    def test_no_change_is_made_before_an_entry_of_the_leaders_term_is_committed(self) -> None:
        node = Node()
        node.elect()
        node.change(LEARNER)
        assert errors(node) == [ChangeError.NOT_READY]
        node.acknowledge("n2")
        node.change(LEARNER)
        node.acknowledge("n2")
        assert errors(node) == [ChangeError.NOT_READY, None]

    def test_a_follower_refuses_a_change(self) -> None:
        node = Node()
        node.raft.change_members(LEARNER, node.changes.append)
        assert node.changes == [], "never from within the call"
        node.raft.tick()
        assert errors(node) == [ChangeError.NOT_LEADER]

    def test_a_leader_that_steps_down_answers_outcome_unknown(self) -> None:
        node = leader()
        node.change(LEARNER)
        node.hear("n2", m.StaleTerm(node.raft_log.term + 1))
        node.pass_time(0.1)
        assert errors(node) == [ChangeError.OUTCOME_UNKNOWN]

    def test_waiting_proposals_are_answered_when_the_node_stops(self) -> None:
        node = leader()
        node.change(LEARNER)
        node.raft.change_members(RemoveMember("n3"), node.changes.append)
        node.raft.stop()
        node.raft.change_members(RemoveMember("n3"), node.changes.append)
        assert errors(node) == [ChangeError.OUTCOME_UNKNOWN, ChangeError.NOT_LEADER, ChangeError.NOT_LEADER]

    def test_a_leader_does_not_remove_itself(self) -> None:
        node = leader()
        node.change(RemoveMember("n1"))
        assert errors(node) == [ChangeError.OWN_REMOVAL]
        assert "hand leadership over first" in node.changes[0].text

    def test_a_change_that_could_not_be_committed_is_refused(self) -> None:
        node = leader()
        node.guard.on_disconnected("n3")
        node.change(RemoveMember("n2"))
        assert errors(node) == [ChangeError.NO_MAJORITY]
        node.change(RemoveMember("n3"))
        node.acknowledge("n2")
        assert errors(node) == [ChangeError.NO_MAJORITY, None]

    def test_a_voter_that_lost_its_disk_does_not_count_for_a_change(self) -> None:
        node = leader()
        reply(node, "n3", voter=False)
        node.acknowledge("n2")
        node.change(RemoveMember("n2"))
        assert errors(node) == [ChangeError.NO_MAJORITY]

    def test_a_voter_that_has_not_answered_since_it_connected_does_not_count_for_a_change(self) -> None:
        """The voter may have lost its disk while it was down. Two voters of which one has no disk would commit nothing
        more.
        """
        node = leader()
        node.guard.on_disconnected("n3")
        node.guard.on_connected("n3")
        node.change(RemoveMember("n2"))
        assert errors(node) == [ChangeError.NO_MAJORITY]
        reply(node, "n3")
        node.change(RemoveMember("n2"))
        reply(node, "n3")
        node.raft.tick()
        assert errors(node) == [ChangeError.NO_MAJORITY, None]

    def test_a_voter_that_has_not_answered_the_new_leader_does_not_count_for_a_change(self) -> None:
        node = Node()
        node.elect()
        node.acknowledge("n2")
        node.change(RemoveMember("n2"))
        assert errors(node) == [ChangeError.NO_MAJORITY]

    def test_a_learner_that_has_everything_commits_nothing(self) -> None:
        node = leader()
        node.guard.on_connected("n4")
        node.change(LEARNER)
        reply(node, "n4")
        node.raft.tick()
        assert node.changes == []

    def test_majorities_are_of_the_new_set(self) -> None:
        node = leader(nodes=4)
        node.change(RemoveMember("n4"))
        node.acknowledge("n2")
        assert errors(node) == [None], "two of three"
        node.propose()
        node.hear("n4", m.AppendReply(node.raft_log.term, node.raft_log.last_index + 1, False, True, True))
        node.pass_time(0.1)
        assert node.results == [], "an acknowledgement of a removed node does not count"

    def test_a_learner_that_has_caught_up_becomes_a_voter(self) -> None:
        node = leader()
        node.guard.on_connected("n4")
        node.change(LEARNER)
        node.acknowledge("n2", "n3")
        assert node.members()["n4"] is Role.LEARNER
        node.acknowledge("n4")
        assert node.members()["n4"] is Role.VOTER
        assert node.raft.status().change_under_way
        node.acknowledge("n2")
        assert node.raft.status().change_under_way, "three of four"
        node.acknowledge("n4")
        assert not node.raft.status().change_under_way

    def test_a_learner_that_is_too_slow_gets_another_round(self) -> None:
        node = leader()
        node.guard.on_connected("n4")
        node.change(LEARNER)
        for _ in range(3):
            node.acknowledge("n2", "n3")
            node.pass_time(0.2)
        node.acknowledge("n4")
        assert node.members()["n4"] is Role.LEARNER
        node.acknowledge("n4")
        assert node.members()["n4"] is Role.VOTER

    def test_a_read_only_member_stays_read_only(self) -> None:
        node = leader()
        node.guard.on_connected("n4")
        node.change(AddMember(Member("n4", Role.READ_ONLY)))
        for _ in range(5):
            node.acknowledge("n2", "n3", "n4")
        assert node.members()["n4"] is Role.READ_ONLY
        states = {state.member.node_id: state for state in node.raft.status().members}
        assert states["n4"].match_index == states["n1"].match_index == node.raft_log.last_index

    def test_leadership_goes_to_voters_only(self) -> None:
        node = leader()
        node.guard.on_connected("n4")
        node.change(AddMember(Member("n4", Role.READ_ONLY)))
        node.acknowledge("n2", "n3")
        node.propose()
        node.acknowledge("n4")
        assert not node.raft.transfer_leadership(), "only n4 has everything"

    def test_a_removed_node_learns_it_once_the_removal_is_committed(self) -> None:
        node = leader()
        node.change(RemoveMember("n3"))
        assert (node.wire.peers, node.wire.removed_peers) == ({}, {}), "the wire goes on as it was"
        node.forget_sent_messages()
        node.acknowledge("n2")
        assert "n3" not in node.wire.peers
        assert m.decode(node.wire.removed_peers["n3"]) == m.Removed(node.raft_log.term, node.raft.status().members_index)
        assert not node.sent_messages(m.AppendEntries, "n3")


class TestFollower:
    def test_a_membership_counts_until_its_entry_is_cut(self) -> None:
        node = Node()
        node.connect()
        node.append("n2", 1, membership(2, 1, three(Member("n4", Role.VOTER))))
        assert node.members()["n4"] is Role.VOTER
        node.append("n3", 2, no_op(2, 2))
        assert node.members() == {"n1": Role.VOTER, "n2": Role.VOTER, "n3": Role.VOTER}
        assert "n4" not in node.wire.peers

    def test_a_membership_survives_a_restart(self) -> None:
        node = Node()
        node.connect()
        node.append("n2", 1, membership(2, 1, three(without="n3", removed=("n3",))), commit=2)
        node.pass_time(1.1)
        again = node.restart()
        assert again.members() == {"n1": Role.VOTER, "n2": Role.VOTER}
        again.raft.tick()
        assert list(again.wire.removed_peers) == ["n3"]

    def test_a_snapshot_contains_the_membership(self) -> None:
        node = Node(trailing_entries=0)
        node.connect()
        entries = [membership(2, 1, three(Member("n4", Role.READ_ONLY))), *(command(index, 1) for index in range(3, 30))]
        node.append("n2", 1, *entries, commit=29)
        node.raft.request_snapshot()
        node.pass_time(0.2)
        assert node.store[-1].mark.members == Membership(three(Member("n4", Role.READ_ONLY)).members, (), 2)
        assert node.restart().members()["n4"] is Role.READ_ONLY

    def test_a_snapshot_names_no_members_without_a_membership_change(self) -> None:
        node = Node()
        node.connect()
        node.append("n2", 1, *(command(index, 1) for index in range(2, 30)), commit=29)
        node.raft.request_snapshot()
        node.pass_time(0.2)
        assert node.store[-1].mark.members is None

    def test_an_installed_snapshot_sets_the_membership(self) -> None:
        node = Node()
        node.connect()
        source = stored(50, 1, commands=3)
        members = Membership(three(Member("n4", Role.VOTER)).members, (), 40)
        source = type(source)(type(source.mark)(source.mark.last, source.mark.previous, members), source.state)
        node.hear("n2", chunk_of(source, 1))
        node.raft.tick()
        assert node.members()["n4"] is Role.VOTER
        assert node.raft.status().members_index == 40

    def test_a_leader_that_is_not_known_yet_is_followed(self) -> None:
        node = Node()
        node.guard.on_connected("n9")
        assert node.append("n9", 3, command(2, 3), commit=2)
        assert node.raft.leader_id == "n9"

    def test_unknown_nodes_may_connect_only_without_a_leader(self) -> None:
        node = Node()
        node.connect()
        node.raft.tick()
        assert node.wire.accepts_unknown
        node.append("n2", 1)
        node.raft.tick()
        assert not node.wire.accepts_unknown

    def test_an_entry_that_is_not_a_membership_is_refused(self) -> None:
        node = Node()
        with pytest.raises(WireRefusedError, match="no possible membership"):
            node.append("n2", 1, LogEntry(bytes([m.MEMBERS]) + b"\x90", 2, 1))

    def test_an_invalid_membership_in_the_log_is_damage(self) -> None:
        node = Node()
        node.append("n2", 1, command(2, 1))
        node.raft_log._log.append(LogEntry(bytes([m.MEMBERS]) + b"\x90", 3, 1))
        node.raft_log._log.sync()
        with pytest.raises(LogDamagedError, match="entry 3 of the log is no possible membership"):
            node.restart()


class TestVotes:
    def test_a_learner_does_not_campaign_and_votes_by_the_log(self) -> None:
        node = Node(join=True)
        node.connect()
        node.pass_time(2.0)
        assert not node.sent_messages(m.PreVote)
        assert node.hear("n2", m.PreVote(3, 5, 1)) == [m.PreVoteReply(3, True, 0)]
        assert node.hear("n2", m.RequestVote(3, 5, 1)) == [m.Vote(3)], "its promotion may be in a log that it does not have yet"

    def test_votes_of_those_without_one_do_not_count(self) -> None:
        node = Node(nodes=3)
        node.append("n2", 1, membership(2, 1, three(Member("n4", Role.READ_ONLY))), after=FIRST)
        node.connect("n2", "n4")
        for _ in range(100):
            node.pass_time(0.02)
            asked = node.sent_messages(m.PreVote)
            for message in asked[-1:]:
                node.hear("n4", m.PreVoteReply(message.term, True, message.term - 1))
        assert asked
        assert node.raft_log.term == 1

    def test_a_learner_does_not_take_over(self) -> None:
        node = Node(join=True)
        node.connect()
        node.append("n2", 1, command(2, 1))
        node.hear("n2", m.TimeoutNow(1))
        node.pass_time(1.0)
        assert node.raft_log.term == 1


class TestRemoved:
    def test_a_node_that_learns_of_its_removal_stops(self) -> None:
        node = Node()
        with pytest.raises(RemovedError, match=r"n1 was removed from its cluster \(log entry 7\)"):
            node.hear("n3", m.Removed(4, 7))

    def test_a_node_that_reads_its_removal_in_its_log_stops_when_it_is_committed(self) -> None:
        node = Node()
        node.connect()
        node.append("n2", 1, membership(2, 1, three(without="n1", removed=("n1",))))
        node.raft.tick()
        node.append("n2", 1, after=membership(2, 1, three()), commit=2)
        with pytest.raises(RemovedError):
            node.raft.tick()

    def test_a_removed_node_does_not_campaign(self) -> None:
        node = Node()
        node.connect()
        node.append("n2", 1, membership(2, 1, three(without="n1", removed=("n1",))))
        node.pass_time(2.0)
        assert not node.sent_messages(m.PreVote)
