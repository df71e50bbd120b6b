"""One test a seam: each fails when another version of PySyncObj moves what `cluster/seams.py` holds on to."""

from __future__ import annotations

import importlib
import inspect
import pickle
import random
from typing import Any

import pysyncobj
import pytest
from pysyncobj import SyncObj, syncobj

from cluster import messages as m
from cluster import seams
from cluster.errors import RaftFatalError
from cluster.membership import Member, Membership, Role, encode_members
from cluster.messages import MEMBERS
from cluster.ports import LogEntry
from cluster.raft_log import RaftLog
from tests.unit.cluster.fakes import FIRST, Node, command


def test_the_installed_version_is_the_one_the_guard_was_written_for() -> None:
    assert importlib.import_module("pysyncobj.version").VERSION == seams.SUPPORTED_VERSION == "0.3.17"


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "VERSION", "0.3.18")
    with pytest.raises(RaftFatalError, match=r"pysyncobj 0\.3\.18 is installed, 0\.3\.17 is what"):
        Node()


@pytest.mark.parametrize(
    "name", ["pickle", "createJournal", "Serializer", "monotonicTime", "random", "PIPE_NOTIFIER_ENABLED", "FAIL_REASON"]
)
def test_the_replaced_names_are_where_they_were(name: str) -> None:
    assert hasattr(syncobj, name)


def test_the_replaced_names_are_used_through_the_module() -> None:
    source = inspect.getsource(syncobj)
    for use in (
        "createJournal(self.__conf.journalFile)",
        "= Serializer(self.__conf.fullDumpFile",
        "monotonicTime()",
        "random.random()",
        "pickle.loads(command[1:])",
        "applier(pickle.dumps(cmd), callback, _COMMAND_TYPE.REGULAR)",
        "PIPE_NOTIFIER_ENABLED",
        "and self.__connectedToAnyone():",
    ):
        assert use in source, use


@pytest.mark.parametrize(
    "field",
    [
        "raftState",
        "noopIDx",
        "transferInProgress",
        "raftMatchIndex",
        "raftNextIndex",
        "raftElectionDeadline",
        "raftLog",
        "connectedNodes",
        "otherNodes",
        "readonlyNodes",
        "lastResponseTime",
        "commandsWaitingCommit",
    ],
)
def test_the_private_fields_exist(field: str) -> None:
    assert f"_SyncObj__{field}" in vars(Node().raft._core)


@pytest.mark.parametrize("method", ["connectedToAnyone", "loadDumpFile", "onMessageReceived", "sendAppendEntries"])
def test_the_private_methods_exist(method: str) -> None:
    assert callable(getattr(SyncObj, f"_SyncObj__{method}"))


def test_pickle_nothing_in_an_entry_is_unpickled() -> None:
    """A command is its bytes, also when they are a pickle that would do harm."""
    node = Node()
    node.connect()
    bomb = pickle.dumps(Bomb())
    node.append("n2", 1, command(2, 1, bomb), commit=2)
    node.raft.tick()
    assert node.machine.commands == [(2, bomb)]
    assert not Bomb.fired


class Bomb:
    """Says so when it is unpickled."""

    fired = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (_fire, ())


def _fire() -> None:
    Bomb.fired = True


def test_pickle_a_proposal_is_in_the_log_as_it_is() -> None:
    node = Node()
    node.elect()
    node.propose(b"just these bytes")
    assert node.raft_log[-1][0] == b"\0just these bytes"
    assert node.restart().raft_log[-1][0] == b"\0just these bytes"


def test_there_is_exactly_one_replicated_method() -> None:
    """PySyncObj numbers them by the rank of their names: with a second one, old logs would replay other calls."""
    core = Node().raft._core
    assert list(core._idToMethod) == [0]
    assert list(core._methodToID) == ["submit_v0"]
    with pytest.raises(RaftFatalError, match="replicated method 1"):
        seams._RawEntries.dumps((1, (b"",)))


def test_create_journal_the_core_uses_ours_and_the_module_keeps_its_own() -> None:
    node = Node()
    raft_log = vars(node.raft._core)["_SyncObj__raftLog"]
    assert isinstance(raft_log, RaftLog)
    assert syncobj.createJournal.__module__ == "pysyncobj.journal"
    assert syncobj.Serializer.__module__ == "pysyncobj.serializer"


def test_create_journal_entries_are_tuples_of_payload_index_term() -> None:
    node = Node()
    assert node.raft_log[0] == (FIRST.payload, FIRST.index, FIRST.term)


def test_create_journal_ours_has_every_method_that_the_core_calls() -> None:
    source = inspect.getsource(syncobj)
    for name in (name for name in dir(pysyncobj.journal.Journal) if not name.startswith("__")):
        if f"__raftLog.{name}" in source:
            assert callable(getattr(RaftLog, name)), name
    for name in (
        "add",
        "clear",
        "deleteEntriesFrom",
        "deleteEntriesTo",
        "setRaftCommitIndex",
        "setCurrentTerm",
        "onOneSecondTimer",
    ):
        assert f"__raftLog.{name}(" in source, name


def test_serializer_the_core_asks_ours_for_snapshots() -> None:
    node = Node(snapshot_entries=3)
    node.elect()
    for _ in range(5):
        node.propose()
    node.acknowledge("n2")
    node.pass_time(0.1)
    assert len(node.store) == 1
    assert node.store[0].mark.last == LogEntry(*node.raft_log[node.store[0].mark.index - node.raft_log.first_index])


def test_serializer_what_it_is_given_are_the_last_two_applied_entries() -> None:
    source = inspect.getsource(SyncObj._SyncObj__tryLogCompaction)
    assert "serialize((data, lastAppliedEntries[1], lastAppliedEntries[0], cluster), lastAppliedEntries[0][1])" in source


def test_monotonic_time_is_the_owners_clock() -> None:
    node = Node()
    assert vars(node.raft._core)["_SyncObj__raftElectionDeadline"] == pytest.approx(node.now + 0.45, abs=0.15)
    assert syncobj.monotonicTime() == node.now


def test_random_is_the_owners() -> None:
    node = Node()
    assert isinstance(syncobj.random, random.Random)
    assert node.raft.status().role == "follower"


def test_pipe_notifier_no_descriptor_is_opened() -> None:
    assert not hasattr(Node().raft._core, "_SyncObj__pipeNotifier")


def test_connected_to_anyone_is_asked_before_each_candidacy() -> None:
    node = Node()
    asked: list[bool] = []
    node.raft._guard.can_campaign = lambda: bool(asked.append(True))  # type: ignore[method-assign,func-returns-value]  # a spy
    node.pass_time(1.0)
    assert asked
    assert node.raft.status().role == "follower"
    assert node.raft_log.term == 0


def test_match_and_next_index_are_read_and_corrected() -> None:
    node = Node()
    node.elect()
    core = node.raft._core
    node.acknowledge("n2")
    assert core.match_index("n2") == node.raft_log.last_index
    core.set_match_index("n2", 0)
    core.set_next_index("n2", 2)
    assert (core.match_index("n2"), core.next_index("n2")) == (0, 2)
    core.set_match_index("n9", 7)
    core.set_next_index("n9", 7)
    assert (core.match_index("n9"), core.next_index("n9")) == (0, 0)


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


def test_a_snapshot_that_cannot_be_loaded_is_told_though_pysyncobj_only_logs_it() -> None:
    assert "logger.exception('failed to load full dump')" in inspect.getsource(SyncObj._SyncObj__loadDumpFile)


def test_an_entry_with_a_membership_is_passed_over_when_it_is_applied() -> None:
    source = inspect.getsource(syncobj)
    assert [f"{name} = {value}" in source for name, value in (("VERSION", 3), ("MEMBERSHIP", 2))] == [True, True]
    assert MEMBERS > 3, "a type that PySyncObj does not know"
    node = Node()
    node.elect()
    committed: list[int] = []
    index = node.raft._core.append_members(encode_members(Membership((Member("n1", Role.VOTER),))), committed.append)
    assert node.raft._core.otherNodes == set()
    node.pass_time(0.05)
    assert committed == [index] == [node.raft.status().applied_index]
    assert node.machine.commands == []


def test_voters_count_and_the_others_only_get_the_log() -> None:
    node = Node()
    node.elect()
    node.guard.on_connected("n4")
    core = node.raft._core
    core.set_peers(["n2", "n3"], ["n4"])
    assert core.next_index("n4") == node.raft_log.last_index + 1
    node.forget_said()
    node.propose()
    assert node.said(m.AppendEntries, "n4")
    core.set_match_index("n4", node.raft_log.last_index)
    node.pass_time(0.05)
    assert node.results == []
    core.set_peers(["n2", "n4"], [])
    assert core.match_index("n4") == node.raft_log.last_index, "what is known stays"
    assert "n3" not in {peer.id for peer in core._SyncObj__raftNextIndex}
    node.pass_time(0.05)
    assert [result.error for result in node.results] == [None]


def test_a_leader_steps_down_by_the_voters_alone() -> None:
    """`leader_fallback` counts what voters answer."""
    node = Node()
    node.elect()
    node.guard.on_connected("n4")
    node.raft._core.set_peers(["n2", "n3"], ["n4"])
    for _ in range(50):
        node.pass_time(0.02)
        node.raft._core.set_match_index("n4", 0)
        node.guard.transport.deliver("n4", {"type": "next_node_idx", "next_node_idx": 1, "reset": False, "success": False})
    assert not node.raft.is_leader
