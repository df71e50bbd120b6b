"""A node that lost its disk, and the nodes that it talks to. `docs/raft.md`, section 3, has the argument."""

from __future__ import annotations

import random

from cluster import messages as m
from tests.simulation.disk import SimDisk
from tests.unit.cluster.fakes import Node, command


class TestWithoutAVote:
    """A node that lost its disk neither votes nor is counted until it is recovered. `docs/raft.md` has the argument."""

    def _recovering(self) -> Node:
        node = Node(disk=SimDisk(random.Random(3)), rejoin=True)
        node.connect()
        return node

    def test_a_recovering_node_neither_votes_nor_campaigns_and_reports_it(self) -> None:
        node = self._recovering()
        assert node.hear("n2", m.RequestVote(5, 99, 4)) == []
        assert node.hear("n2", m.PreVote(5, 99, 4)) == [m.PreVoteReply(5, False, 0)]
        node.pass_time(2.0)
        assert node.raft.status().role == "follower"
        assert node.append("n2", 5, command(2, 5)) == [m.AppendReply(5, 3, False, True, False)]
        node.hear("n2", m.TimeoutNow(5))
        node.pass_time(0.1)
        assert node.sent_messages(m.RequestVote) == []

    def test_only_the_leader_of_the_term_ends_recovery_durably_for_an_entry_in_the_log(self) -> None:
        node = self._recovering()
        node.append("n2", 5, command(2, 5))
        for peer, message in (("n3", m.Recovered(5, 2)), ("n2", m.Recovered(4, 2)), ("n2", m.Recovered(5, 3))):
            node.hear(peer, message)
            assert not node.raft.status().voter
        node.hear("n2", m.Recovered(5, 2))
        assert node.raft.status().voter
        assert node.restart().raft.status().voter

    def test_its_state_survives_restarts_without_the_flag(self) -> None:
        assert not self._recovering().restart().raft.status().voter

    def test_the_leader_does_not_count_a_recovering_node(self) -> None:
        node = Node()
        term = node.elect()
        node.propose()
        node.hear("n2", m.AppendReply(term, node.raft_log.last_index + 1, False, True, False))
        node.pass_time(0.1)
        assert node.results == []
        assert node.raft_log.commit_index == 1

    def test_the_leader_forgets_the_earlier_acknowledgements_of_a_recovering_node(self) -> None:
        node = Node(nodes=5)
        term = node.elect()
        node.propose()
        end = node.raft_log.last_index + 1
        node.hear("n2", m.AppendReply(term, end, False, True, True))
        node.hear("n2", m.AppendReply(term, 2, True, False, False))
        node.hear("n3", m.AppendReply(term, end, False, True, True))
        node.pass_time(0.1)
        assert node.results == []
        node.hear("n4", m.AppendReply(term, end, False, True, True))
        node.pass_time(0.1)
        assert len(node.results) == 1

    def _threshold(self, node: Node, term: int) -> int:
        """n2 reports that it lost its disk. Returns the index after which it may recover."""
        threshold = node.raft_log.last_index + 1
        node.hear("n2", m.AppendReply(term, 2, True, False, False))
        node.pass_time(0.06)
        assert node.raft_log.last_index >= threshold, "a barrier makes sure that there is such an entry"
        return threshold

    def test_a_recovering_node_votes_again_after_an_entry_that_a_majority_of_others_committed(self) -> None:
        node = Node()
        term = node.elect()
        node.acknowledge("n2", "n3")
        threshold = self._threshold(node, term)
        caught_up = m.AppendReply(term, threshold + 1, False, True, False)
        assert node.hear("n2", caught_up) == [], "the entry is not committed yet"
        node.acknowledge("n3")
        assert node.hear("n2", m.AppendReply(term, threshold, False, True, False)) == [], "it does not hold the entry"
        assert node.hear("n2", caught_up) == [m.Recovered(term, threshold)]

    def test_a_disk_lost_twice_needs_a_new_entry(self) -> None:
        """Once it was readmitted it may have voted for another node before it lost its disk again, so the old entry no
        longer proves anything.
        """
        node = Node()
        term = node.elect()
        node.acknowledge("n2", "n3")
        threshold = self._threshold(node, term)
        node.acknowledge("n3")
        assert node.hear("n2", m.AppendReply(term, threshold + 1, False, True, False)) == [m.Recovered(term, threshold)]
        node.guard.on_disconnected("n2")
        node.guard.on_connected("n2")
        end = node.raft_log.last_index + 1
        assert not any(
            isinstance(message, m.Recovered) for message in node.hear("n2", m.AppendReply(term, end, False, True, False))
        )
