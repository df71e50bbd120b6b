"""The log on disk: synced records come back, a torn end is removed, and damage is never skipped."""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import LogDamagedError
from cluster.log import DurableLog, command_of, read_segments, scan, segment_name
from cluster.ports import LogEntry
from cluster.storage import RealDisk
from tests.simulation.disk import PowerLossError, SimDisk
from tests.simulation.mutants import MUTANTS
from tests.unit.cluster.fakes import command, no_op


def opened(disk: SimDisk | RealDisk, *, segment_bytes: int = 1 << 20) -> tuple[DurableLog, list[LogEntry]]:
    log = DurableLog(disk, node_id="n1", abi="abi", segment_bytes=segment_bytes)
    entries = log.load()
    log.cut_torn_end()
    return log, entries


def new_disk(seed: int = 1) -> SimDisk:
    return SimDisk(random.Random(seed))


ENTRIES = [no_op(1, 0), command(2, 1, b"first"), command(3, 1, b""), command(4, 2, b"the last one")]


def small_log() -> tuple[SimDisk, str, bytes]:
    """Return a log of one segment, its file's name and its bytes."""
    disk = new_disk()
    log, _ = opened(disk)
    for entry in ENTRIES:
        log.append(entry)
    log.sync()
    log.close()
    name = segment_name(1)
    return disk, name, disk.read(name)


def with_bytes(name: str, data: bytes) -> SimDisk:
    disk = new_disk()
    file = disk.open(name)
    file.append(data)
    file.sync()
    disk.sync_names()
    return disk


def test_synced_entries_survive_a_power_loss() -> None:
    disk, _, _ = small_log()
    disk.crash(power_loss=True)
    log, entries = opened(disk)
    assert entries == ENTRIES
    assert not log.doubtful
    log.append(command(5, 2))
    log.sync()
    disk.crash(power_loss=True)
    assert opened(disk)[1] == [*ENTRIES, command(5, 2)]


def test_an_entry_that_does_not_follow_is_a_defect() -> None:
    disk, _, _ = small_log()
    log, _ = opened(disk)
    with pytest.raises(AssertionError, match="does not follow"):
        log.append(command(6, 2))


def ends() -> Iterator[int]:
    """Return the offsets at which records end in the small log."""
    _, name, data = small_log()
    _, _, offsets, good, _ = scan(name, data, last=True)
    yield from [*offsets, good]


def test_a_tail_torn_at_any_byte_is_cut_and_the_rest_is_read() -> None:
    _, name, data = small_log()
    bounds = list(ends())
    for size in range(len(data)):
        disk = with_bytes(name, data[:size])
        log, entries = opened(disk)
        whole = sum(1 for end in bounds[1:] if end <= size)
        assert entries == ENTRIES[:whole], size
        assert not log.doubtful, size
        log.append(command(entries[-1].index + 1 if entries else 1, 7, b"after"))
        log.sync()
        assert opened(disk)[1][-1].payload.endswith(b"after"), size


def test_a_tail_of_zeros_is_cut() -> None:
    """A file system may have stored the length of data that it did not write."""
    _, name, data = small_log()
    for whole, end in enumerate(ends()):
        log, entries = opened(with_bytes(name, data[:end] + bytes(4096)))
        assert entries == ENTRIES[:whole]
        assert not log.doubtful
    assert opened(with_bytes(name, bytes(4096)))[1] == []


def test_a_bit_flipped_anywhere_is_damage_or_doubt_and_never_read() -> None:
    _, name, data = small_log()
    last_record = list(ends())[-2]
    for offset in range(len(data)):
        for bit in (0, 5, 7):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << bit
            try:
                log, entries = opened(with_bytes(name, bytes(flipped)))
            except LogDamagedError as error:
                found = str(error)
            else:
                found = "doubtful" if log.doubtful and entries == ENTRIES[:-1] else "read"
            if offset < last_record:
                assert found.startswith(f"{name}: offset "), (offset, bit)
            else:
                assert found == "doubtful", (offset, bit)


def segments() -> SimDisk:
    """Return a disk whose log has each entry in a segment of its own."""
    disk = new_disk()
    log, _ = opened(disk, segment_bytes=1)
    for entry in ENTRIES:
        log.append(entry)
    log.close()
    return disk


def test_a_flipped_bit_in_a_segment_that_is_not_the_last_is_damage() -> None:
    disk = segments()
    first = disk.names()[0]
    disk.files[first].seen[-1] ^= 1
    with pytest.raises(LogDamagedError, match=first):
        opened(disk)


def test_a_torn_end_may_resemble_a_record() -> None:
    """A client chooses its payload, which must not make a node refuse its own log."""
    disk, name, _ = small_log()
    log, _ = opened(disk)
    head = struct.pack("<IQQ", 1, 6, 2)
    forged = head + struct.pack("<I", zlib.crc32(head)) + struct.pack("<I", zlib.crc32(b"\0")) + b"\0"
    log.append(command(5, 2, forged + b"padding"))
    log.close()
    cut = disk.read(name)[:-3]
    assert opened(with_bytes(name, cut))[1] == ENTRIES


def test_a_doubtful_end_stays_until_it_is_cut() -> None:
    _, name, data = small_log()
    disk = with_bytes(name, data[:-1] + bytes([data[-1] ^ 1]))
    for _ in range(2):
        log = DurableLog(disk, node_id="n1", abi="abi")
        assert log.load() == ENTRIES[:-1]
        assert log.doubtful
    log.cut_torn_end()
    assert not opened(disk)[0].doubtful


def test_a_gap_between_segments_is_damage() -> None:
    disk = segments()
    disk.remove(segment_name(2))
    with pytest.raises(LogDamagedError, match=f"{segment_name(3)} begins with entry 3, 2 belongs there"):
        opened(disk)


def test_a_file_that_is_not_a_segment_is_damage() -> None:
    with pytest.raises(LogDamagedError, match="offset 0: not a log segment"):
        opened(with_bytes(segment_name(1), b"something else entirely"))


def test_segments_roll_by_size_and_are_removed_as_a_whole() -> None:
    disk = new_disk()
    log, _ = opened(disk, segment_bytes=200)
    for index in range(1, 31):
        log.append(command(index, 1, b"x" * 40))
    log.sync()
    names = disk.names()
    assert len(names) > 3
    log.compact_to(15)
    left, entries = opened(disk)
    assert entries[0].index <= 15
    assert entries[-1].index == 30
    assert len(disk.names()) < len(names)
    assert left.last_index == 30


def test_the_present_segment_can_be_removed_after_roll() -> None:
    disk = new_disk()
    log, _ = opened(disk)
    for index in range(1, 6):
        log.append(command(index, 1))
    log.roll()
    log.roll()
    log.compact_to(6)
    assert disk.names() == [segment_name(6)]
    log.append(command(6, 1))
    log.sync()
    disk.crash(power_loss=True)
    assert [entry.index for entry in opened(disk)[1]] == [6]


@pytest.mark.parametrize("index", range(1, 12))
def test_the_end_is_cut_across_segments(index: int) -> None:
    disk = new_disk()
    log, _ = opened(disk, segment_bytes=120)
    for number in range(1, 11):
        log.append(command(number, 1, b"x" * 20))
    log.sync()
    log.cut_from(index)
    assert log.last_index == index - 1
    disk.crash(power_loss=True)
    log, entries = opened(disk, segment_bytes=120)
    assert [entry.index for entry in entries] == list(range(1, index))
    log.append(command(index, 2, b"another"))
    log.sync()
    disk.crash(power_loss=True)
    assert opened(disk)[1][-1] == command(index, 2, b"another")


def test_clear_leaves_nothing_and_the_next_entry_may_be_any() -> None:
    disk, _, _ = small_log()
    log, _ = opened(disk)
    log.clear()
    assert disk.names() == []
    log.append(command(100, 3))
    log.sync()
    disk.crash(power_loss=True)
    assert opened(disk)[1] == [command(100, 3)]


class Model:
    """What must be there after a crash at any point: everything synced, and of what came later only a part."""

    def __init__(self) -> None:
        self.log: list[LogEntry] = []
        self.synced: list[LogEntry] = []


def _drive(disk: SimDisk, rng: random.Random, model: Model) -> None:
    log, entries = opened(disk, segment_bytes=150)
    model.log = model.synced = entries
    for _ in range(60):
        last = model.log[-1].index if model.log else 0
        action = rng.random()
        if action < 0.6:
            entry = command(last + 1, rng.randint(1, 9), rng.randbytes(rng.randint(0, 60)))
            log.append(entry)
            model.log = [*model.log, entry]
        elif action < 0.8:
            log.sync()
            model.synced = model.log
        elif action < 0.9 and model.log:
            keep = rng.randint(0, len(model.log))
            cut = model.log[:keep]
            model.synced = cut if len(cut) < len(model.synced) else model.synced
            index = model.log[keep].index if keep < len(model.log) else last + 1
            model.log = cut
            log.cut_from(index)
        elif model.log:
            log.roll()


def _survives_power_losses(seed: int, death_chance: float = 0.02) -> None:
    """Lose the power during random work again and again. What was synced is there each time."""
    rng = random.Random(seed)
    disk = new_disk(seed)
    model = Model()
    for _ in range(6):
        disk.death_chance = death_chance
        with contextlib.suppress(PowerLossError):
            _drive(disk, rng, model)
        disk.death_chance = 0.0
        disk.crash(power_loss=True)
        log, entries = opened(disk, segment_bytes=150)
        assert entries[: len(model.synced)] == model.synced
        assert not log.doubtful
        disk.crash(power_loss=False)


@pytest.mark.parametrize("seed", range(60))
def test_a_power_loss_at_any_step_keeps_synced_data(seed: int) -> None:
    _survives_power_losses(seed)


@pytest.mark.parametrize(
    "name",
    [
        "full_segment_not_synced",
        "truncation_not_synced",
        "torn_end_not_synced",
        "removed_from_the_front",
        "no_directory_sync",
        "torn_records_believed",
    ],
)
def test_without_one_of_its_protections_the_log_loses_something(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    for seed in range(400):
        try:
            _survives_power_losses(seed, 0.1)
        except (AssertionError, LogDamagedError) as error:
            print(f"{name}: seed {seed}: {error}")
            return
    pytest.fail(f"{name}: not noticed")


@given(st.binary(max_size=300))
def test_garbage_is_never_read_as_entries(data: bytes) -> None:
    try:
        _, entries = opened(with_bytes(segment_name(1), data))
    except LogDamagedError:
        return
    assert entries == []


def test_segments_are_read_over_archive_and_log(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "log", archive_to=tmp_path / "archive")
    log, _ = opened(disk, segment_bytes=150)
    written = [command(index, 1, b"x" * 30) for index in range(1, 21)]
    for entry in written:
        log.append(entry)
    log.compact_to(12)
    log.close()
    assert list(read_segments(tmp_path / "archive", tmp_path / "log")) == written
    assert next(iter(read_segments(tmp_path / "log"))).index > 1
    assert list(read_segments(tmp_path / "nowhere")) == []


def test_only_commands_are_commands() -> None:
    assert command_of(command(2, 1, b"abc")) == b"abc"
    assert command_of(command(2, 1, b"")) is None
    assert command_of(no_op(2, 1)) is None
