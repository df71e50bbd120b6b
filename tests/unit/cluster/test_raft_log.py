"""The log in memory begins where the snapshot ends, at whatever moment the node died."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from cluster import hardstate
from cluster.errors import LogDamagedError, RaftFatalError
from cluster.hardstate import HardState
from cluster.log import DurableLog, segment_name
from cluster.ports import LogEntry, SnapshotMark
from cluster.raft_log import RaftLog
from tests.simulation.disk import PowerLossError, SimDisk
from tests.unit.cluster.fakes import FIRST, command

TERM_9 = HardState(term=9)


def disk_with(*entries: LogEntry, state: HardState | None = TERM_9) -> SimDisk:
    """Return a disk with a log of these entries and this hard state."""
    disk = SimDisk(random.Random(1))
    log = DurableLog(disk, node_id="n1", abi="")
    log.load()
    for entry in entries:
        log.append(entry)
    log.close()
    if state is not None:
        hardstate.store(disk, state)
    return disk


def opened(disk: SimDisk, mark: SnapshotMark | None = None, *, rejoin: bool = False) -> RaftLog:
    return RaftLog(disk, DurableLog(disk, node_id="n1", abi=""), mark, rejoin=rejoin)


def indexes(raft_log: RaftLog) -> list[int]:
    return [entry[1] for entry in raft_log[:]]


def run_of(first: int, last: int, term: int = 1) -> list[LogEntry]:
    return [command(index, term) for index in range(first, last + 1)]


MARK = SnapshotMark(last=command(20, 1), previous=command(19, 1))


def test_a_new_disk_is_a_voter_with_an_empty_log() -> None:
    disk = SimDisk(random.Random(1))
    raft_log = opened(disk)
    assert len(raft_log) == 0
    assert not raft_log.recovering
    assert raft_log.commit_index == 1
    assert hardstate.load(disk) == HardState()


def test_a_log_without_a_snapshot_is_read_from_its_first_entry() -> None:
    raft_log = opened(disk_with(FIRST, *run_of(2, 9)))
    assert indexes(raft_log) == list(range(1, 10))
    assert (raft_log.first_index, raft_log.last_index, raft_log.last_term) == (1, 9, 1)


def test_a_kill_between_snapshot_and_compaction_keeps_the_entries_after_the_snapshot() -> None:
    raft_log = opened(disk_with(FIRST, *run_of(2, 30)), MARK)
    assert indexes(raft_log) == list(range(19, 31))
    assert raft_log[0] == MARK.previous
    assert raft_log[1] == MARK.last
    assert raft_log.commit_index == 20


def test_after_compaction_the_log_may_begin_right_behind_the_snapshot() -> None:
    raft_log = opened(disk_with(*run_of(21, 25)), MARK)
    assert indexes(raft_log) == list(range(19, 26))


def test_a_log_older_than_the_snapshot_is_removed() -> None:
    """The node was killed after an incoming snapshot became durable and before the log was cleared."""
    disk = disk_with(FIRST, *run_of(2, 12))
    raft_log = opened(disk, MARK)
    assert indexes(raft_log) == [19, 20]
    raft_log.add(b"\0next", 21, 2)
    raft_log.sync()
    disk.crash(power_loss=True)
    assert indexes(opened(disk, MARK)) == [19, 20, 21]


def test_a_log_that_conflicts_with_the_snapshot_is_removed() -> None:
    raft_log = opened(disk_with(FIRST, *run_of(2, 15), *run_of(16, 30, term=1)), SnapshotMark(command(20, 5), command(19, 5)))
    assert indexes(raft_log) == [19, 20]
    assert raft_log.last_term == 5


def test_a_gap_between_snapshot_and_log_is_damage() -> None:
    with pytest.raises(LogDamagedError, match="the snapshot ends at entry 20 and the log begins with 22"):
        opened(disk_with(*run_of(22, 25)), MARK)


def test_a_log_whose_snapshot_is_gone_is_damage() -> None:
    with pytest.raises(LogDamagedError, match="begins with entry 21 and there is no snapshot"):
        opened(disk_with(*run_of(21, 25)))


def test_the_commit_index_is_clamped_to_the_log() -> None:
    assert opened(disk_with(FIRST, *run_of(2, 9), state=HardState(3, None, 7))).commit_index == 7
    raft_log = opened(disk_with(FIRST, *run_of(2, 9), state=HardState(3, None, 12)))
    assert raft_log.commit_index == 9


def test_a_log_that_ends_before_its_commit_index_costs_the_vote() -> None:
    raft_log = opened(disk_with(FIRST, *run_of(2, 9), state=HardState(3, None, 12)))
    assert raft_log.recovering


def test_a_log_without_a_hard_state_costs_the_vote() -> None:
    assert opened(disk_with(FIRST, *run_of(2, 9), state=None)).recovering
    assert opened(SimDisk(random.Random(1)), MARK).recovering


def test_the_term_is_at_least_that_of_the_last_entry() -> None:
    """The log is synced before the term, so after a crash between them the stored term is lower."""
    raft_log = opened(disk_with(FIRST, command(2, 6), state=HardState(5, "n2")))
    assert raft_log.term == 6
    assert raft_log.getVotedForNodeId() is None


def test_rejoin_costs_the_vote_until_it_is_ended_and_that_is_durable() -> None:
    disk = SimDisk(random.Random(1))
    assert opened(disk, rejoin=True).recovering
    disk.crash(power_loss=True)
    raft_log = opened(disk)
    assert raft_log.recovering
    raft_log.end_recovery()
    disk.crash(power_loss=True)
    assert not opened(disk).recovering


def _damage_last_record(disk: SimDisk) -> None:
    inode = disk.files[segment_name(1)]
    inode.seen[-1] ^= 1
    inode.durable = bytes(inode.seen)


def test_a_doubtful_end_costs_the_vote_also_if_the_node_dies_while_it_starts() -> None:
    for seed in range(40):
        disk = disk_with(FIRST, *run_of(2, 9))
        _damage_last_record(disk)
        disk.rng.seed(seed)
        disk.death_chance = 0.3
        for _ in range(5):
            try:
                opened(disk)
            except PowerLossError:
                disk.crash(power_loss=True)
        disk.death_chance = 0.0
        raft_log = opened(disk)
        assert raft_log.recovering, seed
        assert raft_log.last_index == 8


def test_committed_entries_are_never_removed() -> None:
    raft_log = opened(disk_with(FIRST, *run_of(2, 9)))
    raft_log.setRaftCommitIndex(5)
    with pytest.raises(LogDamagedError, match=r"entry 4 is committed \(up to 5\)"):
        raft_log.deleteEntriesFrom(3)
    raft_log.deleteEntriesFrom(5)
    assert raft_log.last_index == 5
    raft_log.deleteEntriesFrom(99)
    assert raft_log.last_index == 5


def test_forgetting_the_beginning_removes_whole_segments_behind_the_snapshot() -> None:
    disk = disk_with(FIRST, *run_of(2, 9))
    raft_log = opened(disk)
    raft_log.rebase(SnapshotMark(command(8, 1), command(7, 1)))
    raft_log.compact_to(7)
    assert raft_log.first_index == 7
    raft_log.add(b"\0x", 10, 1)
    raft_log.sync()
    assert indexes(opened(disk, SnapshotMark(command(8, 1), command(7, 1)))) == [7, 8, 9, 10]


def test_term_and_vote_are_durable_after_sync_and_the_commit_index_within_a_second() -> None:
    disk = disk_with(FIRST, *run_of(2, 9))
    raft_log = opened(disk)
    raft_log.setCurrentTerm(12, "n3")
    raft_log.setRaftCommitIndex(6)
    raft_log.sync()
    raft_log.setRaftCommitIndex(8)
    raft_log.sync()
    assert hardstate.load(disk) == HardState(12, "n3", 6)
    raft_log.note_commit()
    raft_log.sync()
    assert hardstate.load(disk) == HardState(12, "n3", 8)


def test_an_installed_snapshot_replaces_the_log() -> None:
    disk = disk_with(FIRST, *run_of(2, 9))
    raft_log = opened(disk)
    raft_log.rebase(MARK)
    raft_log.clear()
    raft_log.add(*MARK.previous)
    raft_log.add(*MARK.last)
    raft_log.add(b"\0x", 21, 2)
    raft_log.sync()
    disk.crash(power_loss=True)
    assert indexes(opened(disk, MARK)) == [19, 20, 21]


def test_the_term_of_each_index_is_known() -> None:
    raft_log = opened(disk_with(FIRST, command(2, 3)))
    assert [raft_log.term_at(index) for index in (0, 1, 2, 3)] == [None, 0, 3, None]


def test_the_log_of_a_killed_process_is_synced_before_it_is_read() -> None:
    """The process is killed between write and sync and started again, and then the power fails. The entries that the
    second process relied on are there.
    """
    disk = disk_with(FIRST, *run_of(2, 9))
    raft_log = opened(disk)
    raft_log.add(b"\0seen", 10, 1)
    disk.crash(power_loss=False)
    assert indexes(opened(disk))[-1] == 10
    for _ in range(20):
        disk.crash(power_loss=True)
    assert indexes(opened(disk))[-1] == 10


def test_a_hard_state_that_was_renamed_and_not_synced_is_settled() -> None:
    disk = disk_with(FIRST, *run_of(2, 9))
    raft_log = opened(disk)
    raft_log.setCurrentTerm(12, "n3")
    disk.fate = die_at(2)
    with pytest.raises(PowerLossError):
        raft_log.sync()
    disk.fate = lambda _kind, _drawn: False
    disk.crash(power_loss=False)
    assert opened(disk).getVotedForNodeId() == "n3"
    disk.crash(power_loss=True)
    assert hardstate.load(disk) == HardState(12, "n3", 1)


def test_the_log_is_synced_before_the_hard_state() -> None:
    """Otherwise a crash between them leaves a commit index beyond the log's end, and the node loses its vote."""
    disk = disk_with(FIRST, *run_of(2, 9))
    raft_log = opened(disk)
    raft_log.add(b"\0x", 10, 1)
    raft_log.setRaftCommitIndex(10)
    raft_log.note_commit()
    disk.death_chance, disk.fate = 1.0, die_at(2)
    with pytest.raises(PowerLossError):
        raft_log.sync()
    disk.death_chance = 0.0
    disk.crash(power_loss=True)
    assert not opened(disk).recovering
    assert indexes(opened(disk))[-1] == 10


def die_at(operation: int) -> Callable[[str, bool], bool]:
    """Let the disk fail in its n-th operation from now on."""
    count = [0]

    def fate(kind: str, _drawn: bool) -> bool:
        count[0] += kind == "disk-dies"
        return kind == "disk-dies" and count[0] == operation

    return fate


@pytest.mark.parametrize(("index", "message"), [(4, "goes back from 5 to 4"), (10, "10 is beyond the log's end 9")])
def test_a_commit_index_never_goes_back_nor_beyond_the_log(index: int, message: str) -> None:
    raft_log = opened(disk_with(FIRST, *run_of(2, 9)))
    raft_log.setRaftCommitIndex(5)
    with pytest.raises(RaftFatalError, match=message):
        raft_log.setRaftCommitIndex(index)
    assert raft_log.commit_index == 5
