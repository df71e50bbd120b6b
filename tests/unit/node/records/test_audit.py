"""The audit of logs that the tests write, valid and invalid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest

from cluster.log import DurableLog
from cluster.membership import Member, Membership, Role, encode_members
from cluster.messages import COMMAND, MEMBERS
from cluster.ports import LogEntry
from cluster.storage import RealDisk
from node.config.file import load
from node.deployment.setup import initialise
from node.errors import AuditError
from node.native.protocol import NodeStatus
from node.records.audit import Acknowledged, AuditReport, audit_directory
from node.records.committed_log import log_directories
from snapshots.abi import ABI
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PutCurrency, Withdraw, encode_batch
from statemachine.engine import Engine
from statemachine.limits import OPERATOR, TRANSFER_LIFETIME, TRANSFERS_CACHED

BATCHES: list[list[AnyCommand]] = [
    [PutCurrency(OPERATOR, "usd", "USD", 2), OpenAccount(OPERATOR, "alice", "alice")],
    [Deposit("alice", "t1", "USD", 100)],
    [Deposit("alice", "t1", "USD", 100), Deposit("alice", "t2", "EUR", 5)],
    [Deposit("alice", "t3", "USD", 7)],
]
ACKS = [
    Acknowledged(OPERATOR, "usd", "done", 1),
    Acknowledged("alice", "t1", "transferred", 3),
    Acknowledged("alice", "t1", "transferred", 3),
    Acknowledged("alice", "t2", "rejected", 5),
    Acknowledged("alice", "t9", "unanswered"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    directory = tmp_path / "cluster"
    initialise(directory, 3, base_port=18_000)
    return directory


def entries(batches: Sequence[Sequence[AnyCommand]], *, first: int = 2, term: int = 1) -> list[LogEntry]:
    return [
        LogEntry(bytes([COMMAND]) + encode_batch(Batch(index * 10**9, list(batch))), index, term)
        for index, batch in enumerate(batches, first)
    ]


NOOP = LogEntry(bytes([COMMAND]), 1, 1)


def write(cluster: Path, node_id: str, log: Iterable[LogEntry], *, name: str = "log") -> None:
    durable = DurableLog(RealDisk(cluster / node_id / "data" / name, fsync=False), node_id=node_id, abi=ABI)
    for entry in log:
        durable.append(entry)
    durable.close()


def write_all(cluster: Path, log: Sequence[LogEntry]) -> None:
    for node_id in ("n1", "n2", "n3"):
        write(cluster, node_id, log)


def write_acks(cluster: Path, acks: Iterable[Acknowledged]) -> Path:
    path = cluster / "acks.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in acks))
    return path


def status(node_id: str, sequence: int, state_hash: str, *, commit: int = 5, applied: int = 5) -> NodeStatus:
    return NodeStatus(
        node_id, "c", "follower", "n1", 1, commit, applied, 5, 1, 0, sequence, state_hash, True, True, True, 1.0, "0", "abi", []
    )


def expected_hash() -> str:
    engine = Engine()
    for index, batch in enumerate(BATCHES, 2):
        engine.apply(Batch(index * 10**9, list(batch)))
    return engine.state_hash.hex()


def failing(report: AuditReport) -> list[str]:
    return [f"{check.claim}: {check.detail}" for check in report.checks if not check.holds]


def test_equal_logs_and_recorded_outcomes_hold(cluster: Path) -> None:
    write_all(cluster, [NOOP, *entries(BATCHES)])
    statuses = {node_id: status(node_id, 6, expected_hash()) for node_id in ("n1", "n2", "n3")}
    report = audit_directory(cluster, write_acks(cluster, ACKS), statuses)
    assert failing(report) == []
    assert report.holds
    assert (report.commit_index, report.sequence, report.commands) == (5, 6, 6)
    assert report.state_hash == expected_hash()
    assert len(report.checks) == 5


def test_a_node_may_be_before_or_behind_an_entry_without_commands(cluster: Path) -> None:
    write_all(cluster, [NOOP, *entries([*BATCHES, []])])
    engine = Engine()
    for index, batch in enumerate([*BATCHES, []], 2):
        engine.apply(Batch(index * 10**9, list(batch)))
    hashes = {"n1": expected_hash(), "n2": engine.state_hash.hex(), "n3": engine.state_hash.hex()}
    assert hashes["n1"] != hashes["n2"]
    report = audit_directory(
        cluster, None, {node_id: status(node_id, 6, claimed, commit=6) for node_id, claimed in hashes.items()}
    )
    assert failing(report) == []
    report = audit_directory(cluster, None, {node_id: status(node_id, 6, "ab", commit=6) for node_id in hashes})
    assert len(failing(report)) == 1


def test_an_archived_part_of_the_log_is_read_too(cluster: Path) -> None:
    log = [NOOP, *entries(BATCHES)]
    for node_id in ("n1", "n2", "n3"):
        write(cluster, node_id, log[:2], name="archive")
        write(cluster, node_id, log[2:])
    assert audit_directory(cluster, write_acks(cluster, ACKS)).holds


def test_a_part_of_the_log_that_only_one_node_has_is_enough(cluster: Path) -> None:
    log = [NOOP, *entries(BATCHES)]
    write(cluster, "n1", log)
    write(cluster, "n2", log[3:])
    assert audit_directory(cluster, write_acks(cluster, ACKS)).sequence == 6


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (Acknowledged("alice", "t4", "transferred", 7), "acknowledged as sequence 7 and not in the log"),
        (Acknowledged("alice", "t1", "transferred", 4), "acknowledged as sequence 4, applied as 3"),
        (Acknowledged("alice", "t1", "rejected", 3), "acknowledged as rejected, applied as transferred"),
    ],
)
def test_an_acknowledgement_that_the_log_does_not_bear_out_is_found(cluster: Path, line: Acknowledged, fault: str) -> None:
    write_all(cluster, [NOOP, *entries(BATCHES)])
    report = audit_directory(cluster, write_acks(cluster, [*ACKS, line]))
    assert not report.holds
    assert fault in failing(report)[0]


def test_a_command_that_was_applied_twice_is_found(cluster: Path) -> None:
    """A transfer that is repeated after its cached answer was dropped, which takes thirty days, is applied again."""
    others = [Deposit("alice", f"o{number}", "USD", 1) for number in range(TRANSFERS_CACHED - 1)]
    later = Batch(TRANSFER_LIFETIME + 10**12, [Deposit("alice", "pushes", "USD", 1), *BATCHES[1]])
    log = [NOOP, *entries([*BATCHES[:2], others]), LogEntry(bytes([COMMAND]) + encode_batch(later), 5, 1)]
    write_all(cluster, log)
    report = audit_directory(cluster, write_acks(cluster, ACKS[:2]))
    assert failing(report)[0].endswith(f"alice t1: applied 2 times, as sequences 3, {TRANSFERS_CACHED + 4}")


def test_a_transfer_that_finds_no_room_may_come_again(cluster: Path) -> None:
    """Such a reject is not cached."""
    others = [Deposit("alice", f"o{number}", "USD", 1) for number in range(TRANSFERS_CACHED - 1)]
    full: list[AnyCommand] = [Deposit("alice", "full", "USD", 1)]
    write_all(cluster, [NOOP, *entries([*BATCHES[:2], others, full, full])])
    lines = [Acknowledged("alice", "full", "rejected", TRANSFERS_CACHED + number) for number in (3, 4)]
    report = audit_directory(cluster, write_acks(cluster, [*ACKS[:2], *lines]))
    assert failing(report) == []


def test_transfers_of_different_kinds_may_have_one_id(cluster: Path) -> None:
    write_all(cluster, [NOOP, *entries([*BATCHES, [Withdraw("alice", "t1", "USD", 1)]])])
    report = audit_directory(cluster, write_acks(cluster, [*ACKS, Acknowledged("alice", "t1", "transferred", 7)]))
    assert failing(report) == []


def test_a_log_that_ends_early_on_a_majority_loses_acknowledged_commands(cluster: Path) -> None:
    log = [NOOP, *entries(BATCHES)]
    write(cluster, "n1", log)
    write(cluster, "n2", log[:-1])
    write(cluster, "n3", log[:-1])
    line = Acknowledged("alice", "t3", "transferred", 6)
    report = audit_directory(cluster, write_acks(cluster, [line]))
    assert report.commit_index == 4
    assert "not in the log" in failing(report)[0]


def test_another_entry_of_the_same_term_is_found(cluster: Path) -> None:
    log = [NOOP, *entries(BATCHES)]
    write(cluster, "n1", log)
    write(cluster, "n2", log)
    write(cluster, "n3", [*log[:3], *entries([[Deposit("alice", "t1", "USD", 999)]], first=4)])
    assert "n3 has another entry at 4" in failing(audit_directory(cluster))[0]


def test_uncommitted_entries_of_an_older_term_are_no_disagreement_unless_applied(cluster: Path) -> None:
    log = [NOOP, *entries(BATCHES[:2]), *entries(BATCHES[2:], first=4, term=3)]
    write(cluster, "n1", log)
    write(cluster, "n2", log)
    write(cluster, "n3", [*log[:3], *entries([[Deposit("alice", "lost", "USD", 1)]] * 3, first=4, term=2)])
    report = audit_directory(cluster, write_acks(cluster, ACKS))
    assert report.holds
    assert "n3 holds uncommitted entries from 4 on" in report.checks[0].detail
    claimed = {"n3": status("n3", 6, "00", applied=4)}
    assert "n3 has another entry at 4" in failing(audit_directory(cluster, None, claimed))[0]


def test_a_node_with_another_hash_is_found(cluster: Path) -> None:
    write_all(cluster, [NOOP, *entries(BATCHES)])
    statuses: dict[str, NodeStatus | None] = {
        "n1": status("n1", 6, expected_hash()),
        "n2": status("n2", 6, "00" * 16),
        "n3": None,
        "n4": status("n4", 4, "00"),
    }
    (fault,) = failing(audit_directory(cluster, None, statuses))
    assert "n2 has 0000" in fault
    assert "n3 does not answer" in fault
    assert "n4 is at sequence 4, where no committed entry ends" in fault


def test_a_log_without_its_beginning_cannot_be_audited(cluster: Path) -> None:
    write_all(cluster, [NOOP, *entries(BATCHES)][2:])
    with pytest.raises(AuditError, match=r"entry 1 of 5 is in no node's log.*raft.archive_log"):
        audit_directory(cluster)


def test_a_directory_without_a_log_is_reported(cluster: Path, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no node here has a log"):
        audit_directory(cluster)
    with pytest.raises(AuditError, match="no node in it"):
        audit_directory(tmp_path)


def test_a_damaged_log_is_named(cluster: Path) -> None:
    write_all(cluster, [NOOP, *entries(BATCHES)])
    (path,) = (cluster / "n2" / "data" / "log").glob("*.seg")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(AuditError, match=str(path)):
        audit_directory(cluster)


@pytest.mark.parametrize("text", ["{", "[]", '{"account_id": "a"}', '{"account_id":"a","command_id":"b","kind":3}'])
def test_a_line_that_is_not_an_acknowledgement_is_named(cluster: Path, text: str) -> None:
    write_all(cluster, [NOOP, *entries(BATCHES)])
    path = cluster / "acks.jsonl"
    path.write_text('{"account_id":"alice","command_id":"t1","kind":"transferred","sequence":3,"more":1}\n' + text + "\n")
    with pytest.raises(AuditError, match=r"acks.jsonl, line 2: "):
        audit_directory(cluster, path)
    path.write_bytes(b'{"account_id":"\xff","command_id":"c","kind":"done"}\n')
    with pytest.raises(AuditError, match=r"acks.jsonl, line 1: "):
        audit_directory(cluster, path)


def test_a_payload_that_is_not_a_batch_is_named(cluster: Path) -> None:
    write_all(cluster, [NOOP, LogEntry(bytes([COMMAND]) + b"\xc1", 2, 1)])
    with pytest.raises(AuditError, match="entry 2 is not a batch of commands"):
        audit_directory(cluster)


def test_snapshots_that_a_running_node_may_be_deleting_are_not_examined(cluster: Path) -> None:
    config = load(cluster / "n1" / "node.toml")
    snapshot = config.data_path / "snapshots" / "00000000000000000001"
    snapshot.mkdir(parents=True)
    (config.data_path / "log").mkdir(exist_ok=True)
    for directory in (snapshot, config.data_path / "log"):
        (directory / "log-00000000000000000001.seg").touch()
    assert snapshot not in log_directories(config)
    assert config.data_path / "log" in log_directories(config)


def voting(index: int, *node_ids: str) -> LogEntry:
    """Return the entry that makes these nodes the voters."""
    membership = Membership(tuple(Member(node_id, Role.VOTER) for node_id in node_ids))
    return LogEntry(bytes([MEMBERS]) + encode_members(membership), index, 1)


def test_without_nodes_the_majority_is_that_of_the_voters_in_the_log(cluster: Path) -> None:
    """n1 is the only one left of the first three. n2 and n3 were removed, and their directories contain old data."""
    log = [NOOP, *entries(BATCHES[:1]), voting(3, "n1"), *entries(BATCHES[1:], first=4)]
    write(cluster, "n1", log)
    write(cluster, "n2", log[:2])
    report = audit_directory(cluster)
    assert report.holds
    assert report.commit_index == log[-1].index


def test_without_nodes_an_entry_that_no_majority_of_a_grown_cluster_has_does_not_count(cluster: Path) -> None:
    log = [NOOP, *entries(BATCHES[:1]), voting(3, "n1", "n2", "n3", "n4"), *entries(BATCHES[1:2], first=4)]
    write(cluster, "n1", log)
    write(cluster, "n2", log)
    write(cluster, "n3", log[:2])
    assert audit_directory(cluster).commit_index == 2
