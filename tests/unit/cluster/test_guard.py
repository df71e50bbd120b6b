"""Each protection of the guard gets a sequence of messages made by hand. `docs/raft.md` says what each one prevents."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from cluster import hardstate
from cluster import messages as m
from cluster.errors import RaftFatalError, WireRefusedError
from cluster.hardstate import HardState
from cluster.ports import LogEntry
from cluster.raft_log import RaftLog
from tests.simulation.disk import PowerLossError, SimDisk
from tests.unit.cluster.fakes import FIRST, Node, Snapshots, chunk_of, command, led_by_n2, no_op, stored


def follower(*entries: LogEntry, commit: int = 1, nodes: int = 3) -> Node:
    """Make a follower of n2 in term 1 with these entries after the first one."""
    node = Node(nodes=nodes)
    node.connect()
    node.raft.tick()
    assert node.append("n2", 1, *entries, commit=commit) == [m.AppendReply(1, len(entries) + 2, False, True, True)]
    node.forget_sent_messages()
    return node


def log_of(node: Node) -> list[tuple[int, int]]:
    return [(index, term) for _, index, term in node.raft_log[:]]


TWO_TO_FIVE = [command(index, 1) for index in range(2, 6)]


class TestOverlappingEntries:
    """Section 5.3: entries are removed only from the first one that conflicts."""

    def test_entries_that_are_here_are_skipped_and_what_follows_them_stays(self) -> None:
        node = follower(*TWO_TO_FIVE)
        assert node.append("n2", 1, *TWO_TO_FIVE[:2]) == [m.AppendReply(1, 4, False, True, True)]
        assert log_of(node)[-1] == (5, 1)
        assert node.guard.skipped == 2

    def test_an_old_heartbeat_removes_nothing(self) -> None:
        node = follower(*TWO_TO_FIVE)
        assert node.append("n2", 1) == [m.AppendReply(1, 2, False, True, True)]
        assert log_of(node)[-1] == (5, 1)

    def test_only_new_entries_are_appended(self) -> None:
        node = follower(*TWO_TO_FIVE)
        more = [command(6, 1), command(7, 1)]
        assert node.append("n2", 1, *TWO_TO_FIVE[2:], *more, after=TWO_TO_FIVE[1]) == [m.AppendReply(1, 8, False, True, True)]
        assert [index for index, _ in log_of(node)] == list(range(1, 8))

    def test_entries_from_the_first_conflict_on_are_removed(self) -> None:
        node = follower(*TWO_TO_FIVE)
        replies = node.append("n3", 2, command(3, 1), command(4, 2), after=TWO_TO_FIVE[0])
        assert replies == [m.AppendReply(2, 5, False, True, True)]
        assert log_of(node) == [(1, 0), (2, 1), (3, 1), (4, 2)]

    def test_another_entry_than_a_committed_one_stops_the_node(self) -> None:
        node = follower(*TWO_TO_FIVE, commit=4)
        with pytest.raises(RaftFatalError, match="another entry 3 than the one committed here"):
            node.append("n3", 2, command(3, 2), after=TWO_TO_FIVE[0])


class TestCommitIndex:
    """A follower commits only entries that this message has verified."""

    def test_a_message_that_verifies_less_commits_less(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.append("n2", 1, TWO_TO_FIVE[0], commit=5)
        assert node.raft_log.commit_index == 2
        assert node.guard.leader_commit == 5

    def test_a_mismatch_commits_nothing(self) -> None:
        node = follower(*TWO_TO_FIVE, commit=3)
        node.append("n3", 2, after=command(5, 2), commit=5)
        assert node.raft_log.commit_index == 3

    def test_a_full_match_commits_what_the_leader_says(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.append("n2", 1, after=TWO_TO_FIVE[-1], commit=4)
        node.raft.tick()
        assert node.raft.status().applied_index == 4


class TestMismatch:
    """Every message that does not fit is answered with the commit index, which always fits. So the leader goes back
    once, and not by one entry for each answer.
    """

    @pytest.mark.parametrize(
        "after", [command(9, 1), command(4, 2), LogEntry(b"", 0, 0)], ids=["gap", "conflict", "nothing before"]
    )
    def test_the_follower_asks_for_what_follows_its_commit_index(self, after: LogEntry) -> None:
        node = follower(*TWO_TO_FIVE, commit=3)
        assert node.append("n3", 2, after=after, commit=9) == [m.AppendReply(2, 4, True, False, True)]

    def test_the_leader_goes_back_at_once_but_never_before_an_acknowledged_entry(self) -> None:
        node = Node()
        term = node.elect()
        for _ in range(5):
            node.propose()
        node.hear("n2", m.AppendReply(term, 5, False, True, True))
        node.forget_sent_messages()
        node.hear("n2", m.AppendReply(term, 2, True, False, True))
        node.pass_time(0.06)
        assert node.sent_messages(m.AppendEntries, "n2")[0].prev_index == 4

    @pytest.mark.parametrize("asked", [0, 2**62])
    def test_a_reset_beyond_the_log_is_clamped(self, asked: int) -> None:
        node = Node()
        term = node.elect()
        node.hear("n2", m.AppendReply(term, asked, True, False, True))
        node.pass_time(0.06)
        assert 1 <= node.sent_messages(m.AppendEntries, "n2")[-1].prev_index <= node.raft_log.last_index


class TestTerms:
    """Section 5.1, and answers of other terms."""

    def test_an_old_leader_learns_the_term_and_is_not_obeyed(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.append("n3", 4, after=TWO_TO_FIVE[-1])
        for message in (
            m.AppendEntries(1, 5, 5, 1, [command(6, 1)]),
            m.Heartbeat(1),
            m.SnapshotChunk(1, 50, 1, 1, 0, b"x"),
        ):
            assert node.hear("n2", message) == [m.StaleTerm(4)]
        assert node.raft_log.last_index == 5

    @pytest.mark.parametrize("message", [m.StaleTerm(9), m.AppendReply(9, 2, True, False, True), m.PreVoteReply(2, False, 9)])
    def test_a_leader_that_meets_a_newer_term_follows(self, message: m.AnyMessage) -> None:
        node = Node()
        node.elect()
        node.hear("n2", message)
        assert node.raft.status().role == "follower"
        assert node.raft_log.term == 9

    def test_a_newer_term_alone_gets_no_vote(self) -> None:
        node = Node()
        node.connect()
        node.hear("n2", m.StaleTerm(9))
        assert node.raft_log.getVotedForNodeId() is None
        assert node.sent_messages(m.Vote) == []

    def test_an_acknowledgement_of_an_older_term_counts_for_nothing(self) -> None:
        node = Node()
        term = node.elect()
        node.propose()
        node.hear("n2", m.AppendReply(term - 1, node.raft_log.last_index + 1, False, True, True))
        node.pass_time(0.1)
        assert node.results == []
        others = [state for state in node.raft.status().members if state.member.node_id in node.peers]
        assert len(others) == 2
        assert all(state.match_index == 0 for state in others)


class TestOlderTerms:
    """Section 5.4.2."""

    def test_an_entry_of_an_older_term_is_committed_only_with_one_of_the_present_term(self) -> None:
        node = led_by_n2()
        term = node.elect()
        assert term > 1
        for peer in node.peers:
            node.hear(peer, m.AppendReply(term, 3, False, True, True))
        node.pass_time(0.02)
        assert node.raft.status().commit_index == 1
        node.hear("n2", m.AppendReply(term, 4, False, True, True))
        node.pass_time(0.02)
        assert node.raft.status().commit_index == 3


class TestVotes:
    """Section 5.2."""

    def _candidate(self, nodes: int) -> tuple[Node, int]:
        node = Node(nodes=nodes)
        node.connect()
        node.pass_time(0.7)
        asked = node.sent_messages(m.PreVote)[-1]
        for peer in node.peers:
            node.hear(peer, m.PreVoteReply(asked.term, True, 0))
        node.pass_time(0.02)
        assert node.raft.status().role == "candidate"
        return node, node.raft_log.term

    def test_a_vote_that_comes_twice_counts_once(self) -> None:
        node, term = self._candidate(5)
        for _ in range(3):
            node.hear("n2", m.Vote(term))
        assert not node.raft.is_leader
        node.hear("n3", m.Vote(term))
        assert node.raft.is_leader

    def test_an_old_vote_in_between_makes_no_difference(self) -> None:
        node, term = self._candidate(5)
        node.hear("n2", m.Vote(term))
        node.hear("n3", m.Vote(term - 1))
        node.hear("n2", m.Vote(term))
        assert not node.raft.is_leader

    def test_one_vote_a_term_also_after_a_power_loss(self) -> None:
        node = Node()
        node.connect()
        assert node.hear("n2", m.RequestVote(5, 1, 0)) == [m.Vote(5)]
        assert node.hear("n3", m.RequestVote(5, 1, 0)) == []
        again = node.restart()
        again.connect()
        assert again.hear("n3", m.RequestVote(5, 1, 0)) == []
        assert again.hear("n3", m.RequestVote(6, 1, 0)) == [m.Vote(6)]

    @pytest.mark.parametrize(("last_index", "last_term", "votes"), [(4, 1, 0), (9, 0, 0), (5, 1, 1), (2, 2, 1)])
    def test_a_vote_is_given_only_to_an_up_to_date_log(self, last_index: int, last_term: int, votes: int) -> None:
        node = follower(*TWO_TO_FIVE)
        assert len(node.hear("n3", m.RequestVote(5, last_index, last_term))) == votes


class TestDurability:
    """No message promises anything that a power loss could take back."""

    def _dies_before_it_speaks(self, node: Node, act: Callable[[], object]) -> None:
        node.forget_sent_messages()
        node.disk.death_chance = 1.0
        with pytest.raises(PowerLossError):
            act()
        node.disk.death_chance = 0.0
        assert node.wire.sent == []

    def test_entries_are_synced_before_they_are_acknowledged(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.append("n2", 1, command(6, 1), after=TWO_TO_FIVE[-1])
        assert node.restart().raft_log.last_index == 6
        self._dies_before_it_speaks(node, lambda: node.append("n2", 1, command(7, 1), after=command(6, 1)))

    def test_entries_are_synced_before_they_are_sent(self) -> None:
        node = Node()
        node.elect()
        self._dies_before_it_speaks(node, node.propose)

    def test_a_vote_is_synced_before_it_is_given(self) -> None:
        node = follower(*TWO_TO_FIVE)
        self._dies_before_it_speaks(node, lambda: node.hear("n3", m.RequestVote(5, 9, 4)))

    def test_a_node_whose_disk_failed_says_nothing_more(self) -> None:
        """A second sync after a failed one may succeed although the data to be written is lost."""
        node = follower(*TWO_TO_FIVE)
        self._dies_before_it_speaks(node, lambda: node.append("n2", 1, command(6, 1), after=TWO_TO_FIVE[-1]))
        with pytest.raises(RaftFatalError, match="must stop"):
            node.append("n2", 1, command(6, 1), after=TWO_TO_FIVE[-1])
        with pytest.raises(RaftFatalError, match="must stop"):
            node.raft.tick()
        assert node.wire.sent == []


class TestSnapshots:
    """Section 7."""

    def test_a_whole_snapshot_is_taken_over(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.hear("n2", chunk_of(stored(40, 1), 1))
        node.raft.tick()
        replies = [message for _, message in node.wire.sent]
        assert m.SnapshotAck(1, 40, len(chunk_of(stored(40, 1), 1).data)) in replies
        assert m.AppendReply(1, 41, False, True, True) in replies
        assert log_of(node) == [(39, 1), (40, 1)]
        assert node.raft.status().applied_index == 40
        assert node.restart().raft.status().applied_index == 40

    def test_a_snapshot_older_than_the_commit_index_is_refused(self) -> None:
        node = follower(*TWO_TO_FIVE, commit=4)
        snapshot = chunk_of(stored(3, 1), 1)
        assert node.hear("n2", snapshot) == [m.SnapshotAck(1, 3, snapshot.size), m.AppendReply(1, 5, True, False, True)]
        assert node.raft_log.last_index == 5
        assert node.store == []

    def test_entries_after_the_snapshots_index_are_kept(self) -> None:
        """The follower acknowledged entries up to 5 and restarted with an old commit index. It must keep these entries."""
        node = follower(*TWO_TO_FIVE)
        snapshot = chunk_of(stored(4, 1), 1)
        replies = node.hear("n2", snapshot)
        assert replies == [m.SnapshotAck(1, 4, snapshot.size), m.AppendReply(1, 5, True, False, True)]
        assert node.raft_log.last_index == 5
        assert node.raft_log.commit_index == 4

    def test_a_snapshot_replaces_a_log_that_conflicts(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.hear("n3", chunk_of(stored(4, 2), 2))
        node.raft.tick()
        assert log_of(node) == [(3, 2), (4, 2)]

    def test_a_snapshot_that_fails_its_check_changes_nothing(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.snapshots.refuse = True
        node.hear("n2", chunk_of(stored(40, 1), 1))
        node.raft.tick()
        assert node.raft_log.last_index == 5
        assert node.raft.status().snapshots_refused == 1

    def test_a_snapshot_that_cannot_be_loaded_is_not_acknowledged(self) -> None:
        """PySyncObj only logs the failure, and acknowledges up to the end of its own log, which nothing has compared."""
        node = follower(*TWO_TO_FIVE)
        node.snapshots.broken = True
        node.hear("n2", chunk_of(stored(40, 1), 1))
        with pytest.raises(RaftFatalError, match="the snapshot could not be loaded: a row is missing"):
            node.raft.tick()
        assert [reply for reply in node.sent_messages(m.AppendReply) if reply.success] == []

    def test_a_node_is_not_ready_while_a_received_snapshot_is_checked(self) -> None:
        node = follower(*TWO_TO_FIVE, commit=5)
        node.snapshots.check_polls = 3
        node.hear("n2", chunk_of(stored(40, 1), 1))
        for _ in range(3):
            node.raft.tick()
            assert node.hear("n2", m.Heartbeat(1)) == [m.AppendReply(1, 0, False, False, True), m.SnapshotAck(1, 40, 0)]
            assert not node.raft.status().ready
            assert node.raft.status().applied_index == 5
        node.raft.tick()
        assert node.raft.status().applied_index == 40
        assert node.hear("n2", m.Heartbeat(1)) == [m.AppendReply(1, 0, False, False, True)]

    def test_a_newer_term_ends_the_check(self) -> None:
        node = follower(*TWO_TO_FIVE)
        node.snapshots.check_polls = 2
        node.hear("n2", chunk_of(stored(40, 1), 1))
        node.raft.tick()
        node.hear("n3", m.Heartbeat(2))
        node.pass_time(0.1)
        assert node.store == []
        assert node.raft_log.last_index == 5
        node.hear("n3", chunk_of(stored(40, 1), 2))
        node.pass_time(0.1)
        assert node.raft.status().applied_index == 40

    def test_a_snapshot_does_not_replace_entries_that_arrived_during_its_check(self) -> None:
        node = Node()
        node.connect()
        node.snapshots.check_polls = 2
        node.hear("n2", chunk_of(stored(5, 1), 1))
        node.append("n2", 1, *(command(index, 1) for index in range(2, 9)))
        node.pass_time(0.2)
        assert node.raft_log.last_index == 8, "these were acknowledged"
        assert node.store == []
        node.hear("n2", chunk_of(stored(5, 1), 1))
        assert node.raft.commit_index == 5

    @pytest.mark.parametrize("died", ["pieces came", "it is checked", "it has its name", "it is restored"])
    def test_killed_at_any_stage_the_node_starts_cleanly(self, died: str, monkeypatch: pytest.MonkeyPatch) -> None:
        node = follower(*TWO_TO_FIVE, commit=4)
        node.snapshots.check_polls = 2
        whole = chunk_of(stored(40, 1), 1)

        def die(*_: object) -> None:
            raise PowerLossError

        if died == "pieces came":
            node.hear("n2", msgspec.structs.replace(whole, data=whole.data[:10]))
        elif died == "it is checked":
            node.hear("n2", whole)
            node.raft.tick()
        else:
            owner, step = (Snapshots, "restore") if died == "it has its name" else (RaftLog, "rebase")
            monkeypatch.setattr(owner, step, die)
            node.hear("n2", whole)
            with pytest.raises((PowerLossError, RaftFatalError)):
                node.pass_time(0.1)
            monkeypatch.undo()
        again = node.restart()
        status = again.raft.status()
        taken = died in ("it has its name", "it is restored")
        assert (status.applied_index, status.last_log_index) == ((40, 40) if taken else (1, 5))
        again.hear("n2", chunk_of(stored(60, 1), 1))
        again.raft.tick()
        assert again.raft.status().applied_index == 60

    def test_a_leader_without_the_entries_sends_its_snapshot_and_meanwhile_heartbeats(self) -> None:
        disk = SimDisk(random.Random(3))
        hardstate.store(disk, HardState(term=1))
        node = Node(disk=disk, store=[stored(40, 1)])
        node.elect()
        node.raft_log.compact_to(node.raft_log.first_index + 1)
        node.forget_sent_messages()
        node.hear("n2", m.AppendReply(node.raft_log.term, 2, True, False, True))
        node.pass_time(0.1)
        assert {chunk.index for chunk in node.sent_messages(m.SnapshotChunk, "n2")} == {40}
        assert node.sent_messages(m.Heartbeat, "n2")
        assert node.sent_messages(m.SnapshotChunk, "n3") == []

    def test_entries_after_a_snapshot_are_sent_with_its_acknowledgement_before_a_compaction(self) -> None:
        disk = SimDisk(random.Random(3))
        hardstate.store(disk, HardState(term=1))
        node = Node(disk=disk, store=[stored(40, 1)], snapshot_entries=3, trailing_entries=0)
        node.elect()
        node.raft_log.compact_to(node.raft_log.first_index + 1)
        node.acknowledge("n3")
        node.hear("n2", m.AppendReply(node.raft_log.term, 2, True, False, True))
        node.pass_time(0.1)
        for _ in range(5):
            node.propose()
        node.acknowledge("n3")
        (*_, last) = node.sent_messages(m.SnapshotChunk, "n2")
        node.forget_sent_messages()
        node.hear("n2", m.SnapshotAck(node.raft_log.term, 40, last.size))
        (sent,) = node.sent_messages(m.AppendEntries, "n2")
        assert (sent.prev_index, [entry.index for entry in sent.entries]) == (40, [41, 42, 43, 44, 45, 46])
        node.hear("n2", m.AppendReply(node.raft_log.term, 41, False, True, True))
        node.pass_time(0.2)
        assert node.raft.status().first_log_index > 41, "the log is compacted meanwhile"
        assert node.sent_messages(m.SnapshotChunk, "n2") == []
        assert [message.entries for message in node.sent_messages(m.AppendEntries, "n2")[1:] if message.entries] == []


class TestConnections:
    def test_entries_in_flight_are_sent_again_from_the_acknowledged_index(self) -> None:
        node = Node()
        node.elect()
        node.acknowledge("n2")
        acknowledged = node.raft_log.last_index
        node.propose()
        node.propose()
        node.guard.on_disconnected("n2")
        node.guard.on_connected("n2")
        node.forget_sent_messages()
        node.pass_time(0.06)
        assert node.sent_messages(m.AppendEntries, "n2")[0].prev_index == acknowledged

    def test_a_peer_that_acknowledged_nothing_yet_is_probed(self) -> None:
        node = Node()
        node.elect()
        node.guard.on_disconnected("n2")
        node.guard.on_connected("n2")
        node.forget_sent_messages()
        node.pass_time(0.06)
        assert node.sent_messages(m.AppendEntries, "n2")[0].prev_index == node.raft_log.last_index

    def test_a_malformed_message_is_refused_and_does_no_harm(self) -> None:
        node = follower(*TWO_TO_FIVE)
        with pytest.raises(WireRefusedError):
            node.raft.receive("n2", b"\x80\x04garbage")
        assert node.append("n2", 1, command(6, 1), after=TWO_TO_FIVE[-1]) == [m.AppendReply(1, 7, False, True, True)]


def test_the_first_entry_is_the_same_on_every_node() -> None:
    assert log_of(Node()) == [(FIRST.index, FIRST.term)]
    node = Node()
    node.connect()
    assert node.append("n2", 1, no_op(2, 1)) == [m.AppendReply(1, 3, False, True, True)]
