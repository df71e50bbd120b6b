"""The time of an entry is found in its first bytes."""

from __future__ import annotations

import pytest

from cluster.clocks import STAMP_BYTES
from node.engine.replicated_engine import stamp_of
from snapshots.levels.level import SUPPORTED
from snapshots.levels.states import encoded
from statemachine.commands import Batch, CancelOrder

NOW = 1_764_424_800_123_456_789


@pytest.mark.parametrize("commands", [0, 1, 200])
def test_the_stamp_of_a_batch_is_its_time(commands: int) -> None:
    """At every level."""
    batch = Batch(NOW, [CancelOrder("id", "alice", 1)] * commands)
    for level in SUPPORTED:
        assert stamp_of(encoded(level.abi, batch.time, batch.commands)[:STAMP_BYTES]) == NOW


@pytest.mark.parametrize("entry", [b"", b"\x92", b"\x92\xcf\x01", b"\xa3abcdefghijkl", b"\x92\x05" + bytes(20)])
def test_an_entry_without_a_stamp_has_the_stamp_zero(entry: bytes) -> None:
    assert stamp_of(entry) == 0
