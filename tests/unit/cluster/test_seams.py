"""There is one test for each seam. It fails when another version of PySyncObj changes what `cluster/seams.py` uses."""

from __future__ import annotations

import importlib
import inspect
import pickle
import random

import pysyncobj
import pytest
from pysyncobj import SyncObj, syncobj

from cluster import messages as m
from cluster import seams
from cluster.errors import RaftFatalError
from cluster.messages import MEMBERS
from cluster.ports import LogEntry
from cluster.raft_log import RaftLog
from tests.unit.cluster.fakes import FIRST, Bomb, Node, command


def test_the_installed_version_is_the_one_the_guard_was_written_for() -> None:
    assert importlib.import_module("pysyncobj.version").VERSION == seams.SUPPORTED_VERSION == "0.3.17"


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "VERSION", "0.3.18")
    with pytest.raises(RaftFatalError, match=r"pysyncobj 0\.3\.18 is installed, 0\.3\.17 is what"):
        Node()


@pytest.mark.parametrize("name", ["pickle", "createJournal", "monotonicTime", "random", "PIPE_NOTIFIER_ENABLED", "FAIL_REASON"])
def test_the_replaced_names_are_where_they_were(name: str) -> None:
    assert hasattr(syncobj, name)


def test_the_replaced_names_are_used_through_the_module() -> None:
    source = inspect.getsource(syncobj)
    for use in (
        "createJournal(self.__conf.journalFile)",
        "monotonicTime()",
        "random.random()",
        "PIPE_NOTIFIER_ENABLED",
    ):
        assert use in source, use


@pytest.mark.parametrize(
    "field",
    [
        "raftState",
        "raftLeader",
        "raftCommitIndex",
        "raftLastApplied",
        "noopIDx",
        "transferInProgress",
        "raftElectionDeadline",
        "votesCount",
        "otherNodes",
    ],
)
def test_the_private_fields_exist(field: str) -> None:
    assert f"_SyncObj__{field}" in vars(Node().raft._core)


@pytest.mark.parametrize("method", ["generateRaftTimeout", "onBecomeLeader", "onMessageReceived", "setCurrentTerm", "setState"])
def test_the_private_methods_exist(method: str) -> None:
    assert callable(getattr(SyncObj, f"_SyncObj__{method}"))


def test_pickle_nothing_in_an_entry_is_unpickled() -> None:
    """A command stays bytes, even if they are a harmful pickle."""
    node = Node()
    node.connect()
    bomb = pickle.dumps(Bomb())
    node.append("n2", 1, command(2, 1, bomb), commit=2)
    node.raft.tick()
    assert node.machine.commands == [(2, bomb)]
    assert not Bomb.fired


def test_pickle_a_proposal_is_in_the_log_as_it_is() -> None:
    node = Node()
    node.elect()
    node.propose(b"just these bytes")
    assert node.raft_log[-1][0] == b"\0just these bytes"
    assert node.restart().raft_log[-1][0] == b"\0just these bytes"


def test_pickle_using_it_stops_the_node() -> None:
    Node()
    for use in (syncobj.pickle.dumps, syncobj.pickle.loads):
        with pytest.raises(RaftFatalError, match="pickle"):
            use(b"")


def test_create_journal_the_core_uses_our_log_and_the_module_keeps_its_own() -> None:
    node = Node()
    raft_log = vars(node.raft._core)["_SyncObj__raftLog"]
    assert isinstance(raft_log, RaftLog)
    assert syncobj.createJournal.__module__ == "pysyncobj.journal"


def test_create_journal_entries_are_tuples_of_payload_index_term() -> None:
    node = Node()
    assert node.raft_log[0] == (FIRST.payload, FIRST.index, FIRST.term)


def test_create_journal_ours_has_every_method_that_the_core_calls() -> None:
    source = inspect.getsource(SyncObj.__init__) + inspect.getsource(SyncObj._SyncObj__onMessageReceived)
    source += inspect.getsource(SyncObj._SyncObj__setCurrentTerm) + inspect.getsource(SyncObj._SyncObj__deleteEntriesFrom)
    called = {name for name in dir(pysyncobj.journal.Journal) if f"__raftLog.{name}(" in source}
    assert called == {
        "add", "deleteEntriesFrom", "getCurrentTerm", "getRaftCommitIndex", "getVotedForNodeId", "setCurrentTerm", "setRaftCommitIndex"
    }  # fmt: skip
    for name in called:
        assert callable(getattr(RaftLog, name)), name


def test_snapshots_are_of_the_last_applied_entry() -> None:
    node = Node(snapshot_entries=3)
    node.elect()
    for _ in range(5):
        node.propose()
    node.acknowledge("n2")
    node.pass_time(0.1)
    assert len(node.store) == 1
    assert node.store[0].mark.last == LogEntry(*node.raft_log[node.store[0].mark.index - node.raft_log.first_index])


def test_monotonic_time_comes_from_the_owners_clock() -> None:
    node = Node()
    assert vars(node.raft._core)["_SyncObj__raftElectionDeadline"] == pytest.approx(node.now + 0.45, abs=0.15)
    assert syncobj.monotonicTime() == node.now


def test_random_numbers_come_from_the_owner() -> None:
    node = Node()
    assert isinstance(syncobj.random, random.Random)
    assert node.raft.status().role == "follower"


def test_pipe_notifier_no_descriptor_is_opened() -> None:
    assert not hasattr(Node().raft._core, "_SyncObj__pipeNotifier")


def test_the_owner_is_asked_before_each_candidacy() -> None:
    node = Node()
    asked: list[bool] = []
    node.raft._guard.can_campaign = lambda: bool(asked.append(True))  # type: ignore[method-assign,func-returns-value]  # a spy
    node.pass_time(1.0)
    assert asked
    assert node.raft.status().role == "follower"
    assert node.raft_log.term == 0


def test_the_election_deadline_only_moves_closer() -> None:
    node = Node()
    core = node.raft._core
    core.campaign_by(node.now + 100)
    node.pass_time(0.25)
    before = vars(core)["_SyncObj__raftElectionDeadline"]
    core.campaign_by(node.now + 0.01)
    assert vars(core)["_SyncObj__raftElectionDeadline"] < before


def test_the_transfer_flag_is_set_by_the_leaders_request() -> None:
    node = Node()
    node.append("n2", 1)
    core = node.raft._core
    assert not core.transfer_pending
    core._SyncObj__onMessageReceived(seams.PeerNode("n2"), {"type": "timeout_now", "term": 1})
    assert core.transfer_pending


def test_nodes_have_the_same_hash_in_every_process() -> None:
    assert hash(seams.PeerNode("n1")) == 3950597356
    assert seams.PeerNode("n1") == seams.PeerNode("n1")
    assert seams.PeerNode("n1") != seams.PeerNode("n2")
    assert seams.peer_node("n1") is seams.peer_node("n1")


def test_an_entry_with_a_membership_is_of_a_type_that_pysyncobj_does_not_know() -> None:
    source = inspect.getsource(syncobj)
    assert [f"{name} = {value}" in source for name, value in (("VERSION", 3), ("MEMBERSHIP", 2))] == [True, True]
    assert MEMBERS > 3


def test_an_unexpected_message_of_pysyncobj_stops_the_node() -> None:
    core = Node().raft._core
    with pytest.raises(RaftFatalError, match="apply_command"):
        core._own_transport.send(seams.peer_node("n2"), {"type": "apply_command", "command": b"x"})


def test_a_made_up_request_for_a_vote_raises_the_term_and_gets_no_vote() -> None:
    node = Node()
    node.append("n2", 1)
    node.forget_sent_messages()
    node.raft._core.adopt_term("n3", 7)
    assert (node.raft_log.term, node.raft_log.getVotedForNodeId(), node.raft.status().leader_id) == (7, None, "")
    assert node.sent_messages(m.Vote) == []
