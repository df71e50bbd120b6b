"""When nodes meet, they detect old copies of a data directory, copies that run beside the original, and migrations with
another result.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cluster.introductions import Claim
from node.data_directory import evidence
from node.engine.introductions import Body, Introductions, Migrated, MigratedOtherwiseError, StaleDataError
from node.errors import DataDirectoryError

MIGRATED = Migrated("a" * 40, "b" * 40, "steps", 10, 2, "hash")


def node(directory: Path, node_id: str, body: Body, *, last_index: int = 100) -> Introductions:
    directory.mkdir(exist_ok=True)
    return Introductions(directory, node_id, body, last_index=lambda: last_index, voters=lambda: {"n1", "n2", "n3"})


def meet(one: Introductions, body: Body, *, last_index: int = 100, acknowledged: int = 0, peer: str = "n2") -> bytes | None:
    return one.heard(peer, Claim(msgspec.msgpack.encode(body), last_index, acknowledged))


def test_an_earlier_start_of_the_same_directory_is_an_old_copy(tmp_path: Path) -> None:
    """The directory is restored from a snapshot of the machine, so its start has a number that another start had."""
    one = node(tmp_path / "n1", "n1", Body("d1", 1, "x"))
    for starts, start in ((1, "a"), (2, "b"), (2, "b"), (4, "c")):
        assert meet(one, Body("d2", starts, start)) is None
    one = node(tmp_path / "n1", "n1", Body("d1", 2, "y"))  # it remembers over its own restart
    for body in (Body("d2", 3, "d"), Body("d2", 4, "d")):
        objection = meet(one, body)
        assert objection is not None
        two = node(tmp_path / "n2", "n2", body)
        with pytest.raises(StaleDataError, match="start"):
            two.objected("n1", objection)
        newer = node(tmp_path / "n2", "n2", Body("d2", 5, "e"))
        newer.objected("n1", objection)
    assert one.old_copies == 2
    assert meet(one, Body("d2", 5, "e")) is None


def test_a_directory_that_was_replaced_does_not_come_back(tmp_path: Path) -> None:
    one = node(tmp_path / "n1", "n1", Body("d1", 1, "x"))
    assert meet(one, Body("lost", 7, "a")) is None
    assert meet(one, Body("new", 1, "b")) is None
    objection = meet(one, Body("lost", 8, "c"))
    assert objection is not None
    with pytest.raises(StaleDataError, match="newer data directory"):
        node(tmp_path / "n2", "n2", Body("lost", 8, "c")).objected("n1", objection)
    node(tmp_path / "n2", "n2", Body("new", 1, "b")).objected("n1", objection)


def test_the_leader_detects_a_log_that_ends_before_an_acknowledged_entry(tmp_path: Path) -> None:
    """Formerly the node was never ready, the leader believed that it had everything, and no log said so."""
    leader = node(tmp_path / "n1", "n1", Body("d1", 1, "x"))
    assert meet(leader, Body("d2", 1, "a"), last_index=162, acknowledged=162) is None
    objection = meet(leader, Body("d2", 2, "b"), last_index=60, acknowledged=162)
    assert objection is not None
    with pytest.raises(StaleDataError, match="acknowledged log entries up to 162, and its log ends with 60"):
        node(tmp_path / "n2", "n2", Body("d2", 2, "b"), last_index=60).objected("n1", objection)
    node(tmp_path / "n2", "n2", Body("d2", 2, "b"), last_index=162).objected("n1", objection)


def test_evidence_of_a_stale_directory_prevents_every_later_start(tmp_path: Path) -> None:
    evidence.refuse_start(tmp_path)
    evidence.keep_staleness(tmp_path, evidence.Staleness("n2", "n1", "this is start 3, and start 4 was met before"))
    with pytest.raises(DataDirectoryError, match=r"n1 noticed: this is start 3.*--rejoin"):
        evidence.refuse_start(tmp_path)
    assert [evidence.count_start(tmp_path) for _ in range(3)] == [1, 2, 3]
    (tmp_path / evidence.STARTS).write_text("{")
    with pytest.raises(DataDirectoryError, match="is damaged"):
        evidence.count_start(tmp_path)


def test_a_node_that_migrated_otherwise_than_the_majority_stops(tmp_path: Path) -> None:
    """An executable exists on one node only. Formerly that was detected 64 log entries later, when commands had been
    applied.
    """
    other = msgspec.structs.replace(MIGRATED, steps="another executable")
    alone = node(tmp_path / "n1", "n1", Body("d1", 1, "x", other))
    assert meet(alone, Body("d2", 1, "a", MIGRATED)) is None
    assert "no majority says which is right" in alone.doubt
    with pytest.raises(MigratedOtherwiseError, match=r"n2, n3 was migrated in another way.*quorumbook rollback"):
        meet(alone, Body("d3", 1, "a", MIGRATED), peer="n3")
    right = node(tmp_path / "n2", "n2", Body("d2", 1, "x", MIGRATED))
    assert meet(right, Body("d1", 1, "a", other), peer="n1") is None
    assert right.doubt
    assert meet(right, Body("d3", 1, "a", MIGRATED), peer="n3") is None
    assert right.doubt == ""


def test_states_are_compared_at_the_same_place_of_the_log_only(tmp_path: Path) -> None:
    hashes = msgspec.structs.replace(MIGRATED, state_hash="other")
    assert MIGRATED.differs(hashes)
    for place in ({"last_index": 11}, {"last_term": 3}):
        assert not MIGRATED.differs(msgspec.structs.replace(hashes, **place))
    assert not MIGRATED.differs(msgspec.structs.replace(hashes, from_abi="c" * 40))
    one = node(tmp_path / "n1", "n1", Body("d1", 1, "x"))
    assert meet(one, Body("d2", 1, "a", MIGRATED)) is None
    assert one.doubt == ""
