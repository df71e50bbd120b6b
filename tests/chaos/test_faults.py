"""The short form of `make chaos`: damaged and lost disks and a frozen leader, none of which needs root. The tests also
check that a loss is detected.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from tests.chaos.faults import Fault
from tests.chaos.run import Chaos, ChaosPlan, report
from tests.chaos.stage import Stage, flip_bit

pytestmark = pytest.mark.cluster

PLAN = ChaosPlan(
    seed=5,
    seconds=240.0,
    rounds=1,
    only=("flip-log-middle", "flip-log-end", "lost-disk", "freeze-leader", "replace-node"),
    longest=1.2,
)

NOTICED = re.compile(
    r"acknowledged as sequence \d+|sequence \d+, and \d+ before|\d+ came after \d+|is not on the book|fell below zero"
)
"""By the audit of the logs; or, earlier, by a client that asks again with an id that was answered before the set-back,
or by who rebuilds a book.
"""


class SetBack(Fault):
    """Gives all nodes an older copy of their data directories. What was acknowledged since is lost, and no node can
    detect it.
    """

    name = "set-back"
    quorum = False

    async def begin(self, stage: Stage) -> None:
        self.nodes = list(stage.cluster.node_ids)
        await asyncio.to_thread(stage.cluster.stop)
        for node_id in self.nodes:
            data = stage.data(node_id)
            shutil.copytree(data, data.with_name("copy"), ignore=shutil.ignore_patterns("*.sock"))
        await stage.start(*self.nodes)
        await stage.traded(300)
        await stage.kill(*self.nodes)
        for node_id in self.nodes:
            data = stage.data(node_id)
            shutil.rmtree(data)
            data.with_name("copy").rename(data)


@pytest.mark.timeout(330)
def test_each_fault_is_survived(tmp_path: Path) -> None:
    lines: list[str] = []
    result = asyncio.run(Chaos(tmp_path / "chaos", PLAN, lines.append).run())
    assert sorted(strike.fault for strike in result.strikes) == sorted(PLAN.only), lines
    assert not [strike for strike in result.strikes if strike.failure or strike.skipped], lines
    assert result.holds
    assert "| freeze-leader | 1 | 1 |" in report(result, PLAN)


@pytest.mark.timeout(240)
def test_a_loss_is_noticed(tmp_path: Path) -> None:
    lines: list[str] = []
    plan = ChaosPlan(seed=1, rounds=1, longest=0.1)
    result = asyncio.run(Chaos(tmp_path / "chaos", plan, lines.append, kinds={SetBack.name: SetBack}).run())
    assert not result.holds, lines
    assert NOTICED.search(result.strikes[0].failure), lines


def test_a_flipped_bit_is_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    flip_bit(path, 1, 0)
    assert path.read_bytes() == b"acc"
