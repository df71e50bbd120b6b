"""Term and vote survive a restart, or the node reports that it no longer knows them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import hardstate
from cluster.errors import LogDamagedError
from cluster.hardstate import HardState
from tests.simulation.disk import PowerLossError, SimDisk


def test_a_missing_hard_state_reads_as_none() -> None:
    assert hardstate.load(SimDisk(random.Random(1))) is None


@given(
    st.builds(
        HardState,
        term=st.integers(0, 2**62),
        voted_for=st.none() | st.text(max_size=20),
        commit_index=st.integers(1, 2**62),
        recovering=st.booleans(),
    )
)
def test_a_stored_hard_state_survives_a_power_loss(state: HardState) -> None:
    disk = SimDisk(random.Random(1))
    hardstate.store(disk, state)
    disk.crash(power_loss=True)
    assert hardstate.load(disk) == state


@pytest.mark.parametrize("seed", range(20))
def test_a_power_loss_while_storing_leaves_the_old_or_the_new(seed: int) -> None:
    disk = SimDisk(random.Random(seed))
    old, new = HardState(3, "n1"), HardState(4, "n2")
    hardstate.store(disk, old)
    disk.death_chance = 0.5
    try:
        hardstate.store(disk, new)
        expected = {new}
    except PowerLossError:
        expected = {old, new}
    disk.crash(power_loss=True)
    assert hardstate.load(disk) in expected


def test_any_flipped_bit_is_noticed_and_the_text_says_what_to_do() -> None:
    disk = SimDisk(random.Random(1))
    hardstate.store(disk, HardState(3, "n1", 17, True))
    data = disk.read(hardstate.FILE)
    for offset in range(len(data)):
        disk.replace(hardstate.FILE, data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :])
        with pytest.raises(LogDamagedError, match=r"hardstate: offset 0: .*--rejoin"):
            hardstate.load(disk)


@pytest.mark.parametrize("size", range(10))
def test_a_file_cut_short_is_noticed(size: int) -> None:
    disk = SimDisk(random.Random(1))
    hardstate.store(disk, HardState(3, "n1"))
    disk.replace(hardstate.FILE, disk.read(hardstate.FILE)[:size])
    with pytest.raises(LogDamagedError):
        hardstate.load(disk)


@pytest.mark.parametrize("data", [b"", bytes(1), bytes(4), bytes(64)])
def test_a_file_of_zeros_is_damaged(data: bytes) -> None:
    """A file system may leave a file with its length and without its contents after a power loss."""
    disk = SimDisk(random.Random(1))
    disk.replace(hardstate.FILE, data)
    with pytest.raises(LogDamagedError, match=r"hardstate: offset 0: .*--rejoin"):
        hardstate.load(disk)
