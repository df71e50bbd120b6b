"""The contract of `propose` and `barrier`, and the errors that stop a node."""

from __future__ import annotations

import msgspec
import pytest

from cluster import messages as m
from cluster.errors import RaftFatalError
from cluster.ports import CaptureState, LogEntry
from cluster.raft import ProposeError, ProposeResult
from cluster.settings import ENTRY_BYTES_MAX
from tests.simulation.disk import PowerLossError
from tests.unit.cluster.fakes import Node, command


def errors(node: Node) -> list[ProposeError | None]:
    return [result.error for result in node.results]


class TestPropose:
    def test_a_committed_command_is_answered_once_with_its_index_and_value(self) -> None:
        node = Node()
        node.elect()
        node.propose(b"first")
        node.propose(b"second")
        assert node.results == []
        node.acknowledge("n2")
        node.acknowledge("n3")
        node.pass_time(1.0)
        assert node.results == [ProposeResult(None, 3, 1), ProposeResult(None, 4, 2)]
        assert node.machine.commands == [(3, b"first"), (4, b"second")]

    def test_a_command_is_not_answered_before_a_majority_has_it(self) -> None:
        node = Node(nodes=5)
        node.elect()
        node.propose()
        node.acknowledge("n2")
        assert node.results == []
        node.acknowledge("n3")
        assert errors(node) == [None]

    def test_a_follower_proposes_nothing(self) -> None:
        node = Node()
        node.connect()
        node.raft.propose(b"x", node.results.append)
        assert node.results == [], "never from within propose"
        node.raft.tick()
        node.pass_time(1.0)
        assert errors(node) == [ProposeError.NOT_LEADER]

    def test_a_leader_that_steps_down_answers_outcome_unknown(self) -> None:
        node = Node()
        term = node.elect()
        node.propose()
        node.hear("n2", m.StaleTerm(term + 1))
        assert errors(node) == [ProposeError.OUTCOME_UNKNOWN]
        node.append("n3", term + 1, command(node.raft_log.last_index + 1, term + 1), after=last_of(node), commit=99)
        node.pass_time(0.5)
        assert node.machine.commands == [(3, b"order"), (4, b"x")], "it was committed after all"
        assert errors(node) == [ProposeError.OUTCOME_UNKNOWN], "and is answered once"

    def test_a_leader_without_a_majority_steps_down_soon(self) -> None:
        node = Node()
        node.elect()
        node.propose()
        node.pass_time(0.9)
        assert not node.raft.is_leader
        assert errors(node) == [ProposeError.OUTCOME_UNKNOWN]

    def test_waiting_proposals_are_answered_when_the_node_stops(self) -> None:
        node = Node()
        node.raft.propose(b"no", node.results.append)
        node.elect()
        node.propose(b"perhaps")
        node.raft.propose(b"perhaps too", node.results.append)
        node.raft.stop()
        assert errors(node) == [ProposeError.NOT_LEADER, ProposeError.OUTCOME_UNKNOWN, ProposeError.NOT_LEADER]

    def test_a_stopped_node_does_nothing_more(self) -> None:
        node = Node()
        node.connect()
        node.raft.propose(b"x", node.results.append)
        node.raft.stop()
        node.raft.stop()
        node.raft.propose(b"y", node.results.append)
        assert errors(node) == [ProposeError.NOT_LEADER] * 2
        node.raft.tick()
        assert node.append("n2", 3, command(2, 3)) == []
        assert node.restart().raft_log.last_index == 1
        assert node.wire.stopped

    @pytest.mark.parametrize("payload", [b"", b"x" * (ENTRY_BYTES_MAX + 1)], ids=["empty", "too long"])
    def test_a_payload_that_cannot_be_an_entry_is_refused_at_once(self, payload: bytes) -> None:
        node = Node()
        node.elect()
        with pytest.raises(ValueError, match="a proposal has 1 to"):
            node.raft.propose(payload, node.results.append)
        node.pass_time(0.1)
        assert node.results == []

    def test_the_longest_payload_passes(self) -> None:
        node = Node()
        node.elect()
        node.propose(b"x" * ENTRY_BYTES_MAX)
        node.acknowledge("n2")
        assert errors(node) == [None]


def last_of(node: Node) -> LogEntry:
    return LogEntry(*node.raft_log[-1])


class TestBarrier:
    def test_a_barrier_ends_after_everything_before_it_and_changes_nothing(self) -> None:
        node = Node()
        node.elect()
        node.propose(b"first")
        applied: list[int] = []
        node.raft.barrier(lambda result: applied.append(len(node.machine.commands)))
        node.raft.tick()
        assert applied == []
        node.acknowledge("n2")
        assert applied == [1]
        assert len(node.machine.commands) == 1

    def test_a_follower_refuses_a_barrier(self) -> None:
        node = Node()
        node.raft.barrier(node.results.append)
        node.raft.tick()
        assert errors(node) == [ProposeError.NOT_LEADER]


class TestStopping:
    def test_an_exception_in_apply_stops_the_node_with_the_index(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []

        def apply(index: int, payload: bytes) -> object:
            calls.append(index)
            raise KeyError("defect")

        node = Node()
        monkeypatch.setattr(node.machine, "apply", apply)
        node.elect()
        node.propose()
        with pytest.raises(RaftFatalError, match=r"apply failed at index 3: KeyError\('defect'\)"):
            node.acknowledge("n2")
        for _ in range(3):
            with pytest.raises(RaftFatalError, match="must stop"):
                node.raft.tick()
        assert calls == [3], "the command is not tried again on a state that is half changed"
        node.raft.stop()
        assert errors(node) == [ProposeError.OUTCOME_UNKNOWN]

    def test_an_exception_in_an_answer_stops_the_node(self) -> None:
        node = Node()
        node.elect()

        def done(_result: ProposeResult) -> None:
            raise KeyError("defect")

        node.raft.propose(b"x", done)
        node.raft.tick()
        with pytest.raises(KeyError):
            node.acknowledge("n2")
        with pytest.raises(RaftFatalError, match="must stop"):
            node.raft.tick()
        assert len(node.machine.commands) == 1


class TestLeadership:
    def test_leadership_is_transferred_to_a_follower_that_has_everything(self) -> None:
        node = Node()
        term = node.elect()
        assert not node.raft.transfer_leadership(), "nobody is up to date yet"
        node.acknowledge("n3")
        assert node.raft.transfer_leadership()
        assert node.sent_messages(m.TimeoutNow, "n3") == [m.TimeoutNow(term)]
        assert node.sent_messages(m.TimeoutNow, "n2") == []

    def test_leadership_is_transferred_to_the_named_follower_if_it_has_everything(self) -> None:
        node = Node()
        term = node.elect()
        node.acknowledge("n2", "n3")
        node.propose()
        node.acknowledge("n2")
        assert not node.raft.transfer_leadership("n3"), "n3 lacks an entry"
        assert not node.raft.transfer_leadership("n9"), "there is no n9"
        assert not node.raft.transfer_leadership("n1"), "n1 leads"
        node.acknowledge("n3")
        assert node.raft.transfer_leadership("n2")
        assert (node.sent_messages(m.TimeoutNow, "n2"), node.sent_messages(m.TimeoutNow, "n3")) == ([m.TimeoutNow(term)], [])

    def test_a_follower_transfers_no_leadership(self) -> None:
        assert not Node().raft.transfer_leadership()

    def test_a_node_that_has_failed_transfers_no_leadership(self) -> None:
        node = Node()
        node.elect()
        node.acknowledge()
        node.disk.death_chance = 1.0
        node.raft.propose(b"x", node.results.append)
        with pytest.raises(PowerLossError):
            node.raft.tick()
        node.disk.death_chance = 0.0
        assert not node.raft.transfer_leadership()
        assert node.sent_messages(m.TimeoutNow) == []

    def test_a_disk_error_during_a_transfer_of_leadership_is_final(self) -> None:
        node = Node()
        node.elect()
        node.acknowledge()
        node.raft_log.setCurrentTerm(node.raft_log.term, None)
        node.disk.death_chance = 1.0
        with pytest.raises(PowerLossError):
            node.raft.transfer_leadership()
        node.disk.death_chance = 0.0
        with pytest.raises(RaftFatalError, match="must stop"):
            node.raft.tick()

    def test_a_stopped_node_transfers_no_leadership(self) -> None:
        node = Node()
        node.elect()
        node.acknowledge()
        node.raft.stop()
        assert not node.raft.transfer_leadership()

    def test_changes_are_reported_once_with_the_leader(self) -> None:
        node = Node()
        changes: list[tuple[str, str]] = []
        node.raft.on_role_change.append(lambda role, leader: changes.append((role, leader)))
        node.elect()
        node.raft.tick()
        node.append("n2", 9, after=last_of(node))
        node.raft.tick()
        node.raft.tick()
        assert changes == [("candidate", ""), ("leader", "n1"), ("follower", "n2")]


class TestReady:
    def test_a_leader_is_ready_when_its_first_entry_is_applied(self) -> None:
        node = Node()
        node.elect()
        assert not node.raft.status().ready
        node.acknowledge("n2")
        assert node.raft.status().ready

    def test_a_follower_is_ready_when_it_has_applied_what_the_leader_committed(self) -> None:
        node = Node()
        node.connect()
        assert not node.raft.status().ready
        node.append("n2", 1, after=command(90, 1), commit=90)
        node.raft.tick()
        assert not node.raft.status().ready, "it lacks everything"
        node.append("n2", 1, command(2, 1), commit=2)
        node.raft.tick()
        assert node.raft.status().ready

    def test_a_follower_that_is_sent_a_snapshot_is_not_ready(self) -> None:
        node = Node()
        node.connect()
        node.hear("n2", m.SnapshotChunk(1, 500, 1, 100, 0, b"x"))
        node.hear("n2", m.Heartbeat(1))
        node.raft.tick()
        assert not node.raft.status().ready


class TestSnapshots:
    def _leader_with(self, entries: int, node: Node) -> None:
        node.elect()
        for _ in range(entries):
            node.propose()
        node.acknowledge("n2")

    def test_a_snapshot_is_taken_after_a_number_of_entries_and_the_log_is_compacted(self) -> None:
        node = Node(snapshot_entries=20, trailing_entries=5)
        self._leader_with(30, node)
        node.pass_time(0.1)
        mark = node.snapshots.newest()
        assert mark is not None
        assert node.raft.status().snapshot_index == mark.index >= 20
        assert node.raft.status().first_log_index == mark.previous.index - 5
        again = node.restart()
        assert again.raft.status().applied_index == mark.index
        again.pass_time(0.02)
        assert again.machine.commands == node.machine.commands

    def test_the_log_stays_while_it_is_not_durable_or_failed(self) -> None:
        node = Node(trailing_entries=0)
        node.snapshots.state = CaptureState.RUNNING
        self._leader_with(10, node)
        node.raft.request_snapshot()
        node.pass_time(0.1)
        assert node.raft.status().first_log_index == 1
        node.snapshots.state = CaptureState.FAILED
        node.pass_time(0.1)
        assert (node.raft.status().first_log_index, node.raft.status().snapshot_index) == (1, 0)

    def test_a_leader_replaces_a_damaged_snapshot_even_without_new_entries(self) -> None:
        node = Node(nodes=1, trailing_entries=0)
        node.elect()
        node.propose()
        node.raft.request_snapshot()
        node.pass_time(0.1)
        mark = node.snapshots.newest()
        assert mark is not None
        assert mark.index == node.raft.status().last_log_index == 3
        node.store[-1] = msgspec.structs.replace(node.store[-1], sound=False)
        node.pass_time(0.1)
        assert node.raft.status().last_log_index == 3, "nobody has looked"
        node.snapshots.examine()
        node.pass_time(0.2)
        assert [(one.mark.index, one.sound) for one in node.store] == [(3, False), (4, True)]
        assert node.raft.status().last_log_index == 4, "one entry is enough"

    def test_a_snapshot_that_cannot_be_loaded_stops_the_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        node = Node(snapshot_entries=5)
        self._leader_with(10, node)
        node.pass_time(0.1)
        assert node.store
        monkeypatch.setattr(type(node.machine), "load", lambda *_: 1 / 0)
        with pytest.raises(RaftFatalError, match="the snapshot could not be loaded: division by zero"):
            node.restart()
