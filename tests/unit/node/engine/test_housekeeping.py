"""How often an engine does its periodic work: rarely if nothing can be due."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.engine.housekeeping import INTERVAL, INTERVAL_IDLE, QUIET_RUNS, Housekeeping
from node.engine.modes import Mode
from tests.unit.node.fakes import WORLD, FakeNode, config_of


class Keeping:
    """The housekeeping of a leader that is ready. The test moves its timer."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        for mode in (Mode.BOOTSTRAPPING, Mode.INITIALISING, Mode.READY):
            node.service.modes.enter(mode)
        snapshots = SimpleNamespace(taken=0, sequence=0, since=0.0)
        self.made = Housekeeping(
            node.config, node.service, cast(Any, node.raft), cast(Any, snapshots), node.machine, lambda: None
        )
        self.made.start()

    def pause(self) -> float:
        """Run it. Returns the seconds until the next run."""
        self.made._run()
        return self.until()

    def until(self) -> float:
        """Return the seconds until the next run, or `INTERVAL_IDLE` if it is at the next whole second."""
        timer = self.made._timer
        assert timer is not None
        if timer.when() == math.floor(asyncio.get_running_loop().time()) + INTERVAL_IDLE:
            return INTERVAL_IDLE
        return round(timer.when() - asyncio.get_running_loop().time(), 1)

    async def apply(self, *commands: Any) -> None:
        """Apply commands as those of a client."""
        answered = asyncio.get_running_loop().create_future()
        principal = SimpleNamespace(own=lambda given, _permission: given, node=True, operator=True, name="test")
        request = SimpleNamespace(request_id=1, commands=list(commands))
        self.node.service.submit(cast(Any, principal), cast(Any, request), 100, answered.set_result)
        await answered


@pytest.fixture
async def keeping(tmp_path: Path) -> Keeping:
    return Keeping(FakeNode(config_of(tmp_path)))


async def test_a_leader_without_commands_runs_seldom(keeping: Keeping) -> None:
    pauses = [keeping.pause() for _ in range(QUIET_RUNS + 2)]
    assert pauses[-2:] == [INTERVAL_IDLE, INTERVAL_IDLE]
    assert pauses[0] == INTERVAL


async def test_the_next_command_makes_it_run_soon(keeping: Keeping) -> None:
    for _ in range(QUIET_RUNS + 1):
        keeping.pause()
    assert keeping.until() == INTERVAL_IDLE
    await keeping.apply(*WORLD)
    assert keeping.until() == INTERVAL
    assert keeping.pause() == INTERVAL


@pytest.mark.parametrize(
    ("pending", "expires_in", "pause"),
    [(False, 0.0, INTERVAL_IDLE), (False, 60.0, INTERVAL_IDLE), (False, 0.4, INTERVAL), (True, 0.0, INTERVAL)],
)
async def test_a_leader_with_something_that_is_due_soon_runs_often(
    keeping: Keeping, pending: bool, expires_in: float, pause: float
) -> None:
    expiry = time.time_ns() + int(expires_in * 1e9) if expires_in else 0
    keeping.node.machine.engine = cast(Any, SimpleNamespace(sequence=1, has_pending_work=False, next_expiry=expiry, time=0))
    for _ in range(QUIET_RUNS):
        keeping.pause()
    keeping.node.machine.engine = cast(
        Any, SimpleNamespace(sequence=1, has_pending_work=pending, next_expiry=expiry, time=time.time_ns() + 10**12)
    )
    assert keeping.pause() == pause


async def test_a_follower_runs_seldom_and_a_new_leader_at_once(keeping: Keeping) -> None:
    keeping.node.raft.lose_leadership("n2")
    assert keeping.until() == 0.0
    assert keeping.pause() == INTERVAL_IDLE
    keeping.node.raft.lead()
    assert keeping.until() == 0.0
    assert keeping.pause() == INTERVAL
