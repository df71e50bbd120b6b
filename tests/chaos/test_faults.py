"""The short form of `make chaos`: damaged and lost disks, and a frozen leader, none of which needs root."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.run import Chaos, ChaosPlan, report
from tests.chaos.stage import flip_bit

pytestmark = pytest.mark.cluster

PLAN = ChaosPlan(
    seed=5, seconds=90.0, rounds=1, only=("flip-log-middle", "flip-log-end", "lost-disk", "freeze-leader"), longest=1.2
)


@pytest.mark.timeout(150)
def test_each_fault_is_survived(tmp_path: Path) -> None:
    lines: list[str] = []
    result = asyncio.run(Chaos(tmp_path / "chaos", PLAN, lines.append).run())
    assert sorted(strike.fault for strike in result.strikes) == sorted(PLAN.only), lines
    assert not [strike for strike in result.strikes if strike.failure or strike.skipped], lines
    assert result.holds
    assert "| freeze-leader | 1 | 1 |" in report(result, PLAN)


def test_a_flipped_bit_is_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    flip_bit(path, 1, 0)
    assert path.read_bytes() == b"acc"
