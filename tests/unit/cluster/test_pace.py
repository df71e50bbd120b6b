"""When a node ticks, how much it does in one tick, and what waits for what. The tests count and do not measure time."""

from __future__ import annotations

import random

import pytest

from cluster import messages as m
from cluster.ports import CaptureState, LogEntry
from cluster.raft import IDLE_MAX, POLL
from cluster.replication import COMMIT_SENT_AFTER
from tests.simulation.disk import SimDisk
from tests.unit.cluster.fakes import Node, command


class Woken(Node):
    """A node that counts how often it wanted to tick at once."""

    def __init__(self, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]  # whatever a node takes
        self.wakes = 0
        self.raft.wake = self._wake

    def _wake(self) -> None:
        self.wakes += 1


def follower(**more: object) -> Woken:
    node = Woken(**more)
    node.connect()
    node.append("n2", 1, command(2, 1), commit=2)
    node.raft.tick()
    node.wakes = 0
    return node


class TestTicks:
    def test_a_heartbeat_without_news_postpones_the_next_tick(self) -> None:
        node = follower()
        for _ in range(19):
            node.now += 0.05
            node.append("n2", 1, after=command(2, 1), commit=2)
            assert node.raft.due_in() > 0
        assert node.wakes == 0

    def test_a_commit_or_another_leader_wakes_a_follower_and_entries_do_not(self) -> None:
        node = follower()
        node.append("n2", 1, command(3, 1), after=command(2, 1), commit=2)
        assert node.wakes == 0
        node.append("n2", 1, after=command(3, 1), commit=3)
        assert node.wakes == 1
        node.append("n3", 2, after=command(3, 1), commit=3)
        assert node.wakes == 2

    def test_only_an_acknowledgement_wakes_the_leader_and_no_answer_to_a_heartbeat(self) -> None:
        node = Woken()
        term = node.elect()
        node.acknowledge()
        node.pass_time(0.2)
        node.wakes = 0
        reply = m.AppendReply(term, node.raft_log.last_index + 1, False, True, True)
        node.hear("n2", reply)
        assert node.wakes == 0
        node.propose()
        node.wakes = 0
        node.hear("n2", m.AppendReply(term, node.raft_log.last_index + 1, False, True, True))
        assert node.wakes == 1

    def test_a_leader_ticks_for_its_heartbeats(self) -> None:
        node = Woken()
        node.elect()
        node.acknowledge()
        node.pass_time(0.2)
        assert 0 < node.raft.due_in() <= 0.05
        node.now += 0.051
        assert node.raft.due_in() <= 0

    def test_a_follower_without_a_leader_ticks_at_its_timeout(self) -> None:
        node = follower()
        node.now += 0.3
        node.raft.tick()
        assert 0 < node.raft.due_in() <= 0.3
        node.now += 0.3
        assert node.raft.due_in() <= 0

    def test_a_snapshot_in_progress_is_polled_in_short_intervals(self) -> None:
        node = follower(snapshot_entries=1)
        node.snapshots.state = CaptureState.RUNNING
        node.raft.request_snapshot()
        node.raft.tick()
        node.raft.tick()
        assert 0 < node.raft.due_in() <= POLL
        node.now += POLL
        assert node.raft.due_in() <= 0

    def test_a_node_ticks_at_least_once_a_second(self) -> None:
        node = follower()
        node.raft._core._SyncObj__raftElectionDeadline = node.now + 1_000
        assert node.raft.due_in() == pytest.approx(IDLE_MAX)
        node.now += IDLE_MAX
        assert node.raft.due_in() <= 0

    def test_connections_that_come_and_go_wake_the_node(self) -> None:
        node = follower()
        node.raft._disconnected_from("n3")
        node.raft._connected_to("n3")
        assert node.wakes >= 2


class TestApplying:
    def test_a_backlog_is_applied_in_slices(self) -> None:
        node = Woken()
        node.raft._core._slice_entries = 100
        node.connect()
        entries = [command(index, 1) for index in range(2, 1_002)]
        node.append("n2", 1, *entries, commit=1_001)
        applied, ticks = 0, 0
        while node.raft.status().applied_index < 1_001:
            node.wakes = 0
            node.raft.tick()
            ticks += 1
            assert len(node.machine.commands) - applied <= 100
            applied = len(node.machine.commands)
            assert node.wakes >= (node.raft.status().applied_index < 1_001)
        assert ticks == 10
        assert [index for index, _ in node.machine.commands] == list(range(2, 1_002))

    def test_between_two_slices_the_leader_is_answered(self) -> None:
        node = Woken()
        node.raft._core._slice_entries = 1
        node.connect()
        node.append("n2", 1, *[command(index, 1) for index in range(2, 12)], commit=11)
        node.raft.tick()
        answers = node.append("n2", 1, after=command(11, 1), commit=11)
        assert [reply.success for reply in answers if isinstance(reply, m.AppendReply)] == [True]


class TestCommit:
    def committed(self) -> Woken:
        """Return a leader that has just committed an entry."""
        node = Woken()
        node.elect()
        node.acknowledge()
        node.pass_time(0.2)
        node.propose(b"one")
        node.forget_sent_messages()
        node.hear("n2", m.AppendReply(node.raft_log.term, node.raft_log.last_index + 1, False, True, True))
        node.raft.tick()
        return node

    def test_a_commit_index_is_sent_with_the_next_entries(self) -> None:
        node = self.committed()
        assert node.raft.commit_index == node.raft_log.last_index
        assert not node.sent_messages(m.AppendEntries), "no round for the commit alone"
        node.propose(b"two")
        (sent_index,) = {message.commit_index for message in node.sent_messages(m.AppendEntries)}
        assert sent_index == node.raft_log.last_index - 1

    def test_a_commit_index_is_sent_soon_if_there_are_no_entries(self) -> None:
        node = self.committed()
        assert node.raft.due_in() <= COMMIT_SENT_AFTER + 1e-9
        node.now += COMMIT_SENT_AFTER + 0.0001
        node.raft.tick()
        assert {message.commit_index for message in node.sent_messages(m.AppendEntries)} == {node.raft_log.last_index}


class TestEntriesLeaveFirst:
    """Thesis, section 10.2.1: the leader writes its disk while the followers write theirs, and counts itself only
    afterwards.
    """

    def test_the_leader_sends_before_it_syncs_and_commits_after(self) -> None:
        node = Woken()
        node.elect()
        node.acknowledge()
        order: list[str] = []
        sync, send = node.raft_log._log.sync, node.wire.send

        def synced() -> None:
            if node.raft_log._log.dirty:
                order.append("sync")
            sync()

        def sent(peer: str, message: bytes) -> bool:
            if getattr(m.decode(message), "entries", None):
                order.append("send")
            return send(peer, message)

        node.raft_log._log.sync = synced  # type: ignore[method-assign]  # of this log only
        node.wire.send = sent  # type: ignore[method-assign]  # of this wire only
        node.propose()
        assert order == ["send", "send", "sync"]

    def test_term_and_vote_are_durable_before_anything_leaves(self) -> None:
        node = Woken(disk=SimDisk(random.Random(1)))
        node.connect()
        node.raft_log.setCurrentTerm(7, "n1")
        node.raft._outbox.send_entries("n2", m.encode(m.AppendEntries(7, 1, 1, 0, [LogEntry(b"\0x", 2, 7)])))
        assert not node.raft_log.state_dirty

    def test_a_follower_syncs_before_it_acknowledges(self) -> None:
        node = follower()
        node.append("n2", 1, command(3, 1), after=command(2, 1))
        assert not node.raft_log._log.dirty
        assert node.sent_messages(m.AppendReply)[-1].next_index == 4


class TestMessagesThatArriveTogether:
    """A follower that has several messages of its leader waiting must not sync and answer once for each of them."""

    def _syncs(self, node: Node) -> list[int]:
        syncs: list[int] = []
        sync = node.raft_log._log.sync

        def counted() -> None:
            if node.raft_log._log.dirty:
                syncs.append(node.raft_log.last_index)
            sync()

        node.raft_log._log.sync = counted  # type: ignore[method-assign]  # of this log only
        return syncs

    def _append(self, node: Node, index: int, *, term: int = 1, more: bool) -> list[m.AnyMessage]:
        message = m.AppendEntries(term, 2, index - 1, term, [command(index, term)])
        return node.hear("n2", message, more=more)

    def test_one_sync_and_one_answer_serve_for_all(self) -> None:
        node = follower()
        syncs = self._syncs(node)
        assert self._append(node, 3, more=True) == self._append(node, 4, more=True) == []
        assert syncs == []
        (reply,) = self._append(node, 5, more=False)
        assert isinstance(reply, m.AppendReply)
        assert (reply.next_index, reply.success) == (6, True)
        assert syncs == [5]

    def test_the_answer_does_not_wait_for_a_message_that_has_none(self) -> None:
        node = follower()
        self._append(node, 3, more=True)
        quiet = m.AppendEntries(1, 3, 3, 1, [], quiet=True)
        (reply,) = node.hear("n2", quiet)
        assert isinstance(reply, m.AppendReply)
        assert (reply.next_index, reply.success) == (4, True)

    def test_a_mismatch_is_answered_after_the_acknowledgement_before_it(self) -> None:
        node = follower()
        self._append(node, 3, more=True)
        replies = self._append(node, 9, more=False)
        assert [(reply.next_index, reply.success) for reply in replies if isinstance(reply, m.AppendReply)] == [
            (4, True),
            (3, False),
        ]

    def test_an_older_message_does_not_take_back_a_later_acknowledgement(self) -> None:
        node = follower()
        self._append(node, 3, more=True)
        self._append(node, 4, more=True)
        (reply,) = self._append(node, 3, more=False)
        assert isinstance(reply, m.AppendReply)
        assert reply.next_index == 5

    def test_a_held_acknowledgement_is_dropped_with_the_leadership_or_the_connection(self) -> None:
        node = follower()
        self._append(node, 3, more=True)
        replies = node.hear("n2", m.RequestVote(2, 3, 1))
        assert not any(isinstance(reply, m.AppendReply) for reply in replies)
        self._append(node, 4, term=1, more=True)
        node.guard.on_disconnected("n2")
        node.forget_sent_messages()
        node.raft.tick()
        assert not node.sent_messages(m.AppendReply)

    def test_a_held_acknowledgement_is_sent_with_the_next_tick_if_the_next_message_is_lost(self) -> None:
        node = follower()
        self._append(node, 3, more=True)
        node.forget_sent_messages()
        node.raft.tick()
        assert [reply.next_index for reply in node.sent_messages(m.AppendReply)] == [4]
