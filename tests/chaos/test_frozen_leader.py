"""A leader freezes (SIGSTOP: its connections stay open, and nothing answers). It is replaced, and detects that when it
continues.
"""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from loadtest.scenario import Plan, Scenario
from loadtest.watch import reached
from tests.real_cluster import READY_SECONDS, MakeGround, judged

pytestmark = pytest.mark.cluster

PLAN = Plan(seed=13, clients=6, chunk=3, rate=600.0, run="frozen")


def test_a_frozen_leader_is_replaced(make_ground: MakeGround) -> None:
    ground = make_ground()

    async def play() -> None:
        async with Scenario(ground.cluster, ground.directory, PLAN) as scenario:
            await scenario.put_market()
            scenario.start_trading()
            leader = await scenario.watcher.wait_leader(READY_SECONDS)
            scenario.start_readers(leader)
            assert await reached(lambda: scenario.recorder.acknowledged > 600, 20)
            frozen_at = time.monotonic()
            await asyncio.to_thread(ground.cluster.kill, leader, signal.SIGSTOP)
            try:
                await scenario.watcher.wait_leader(20.0, other_than=leader)
                assert await reached(lambda: scenario.recorder.since(frozen_at + 1.0) > 300, 20), "the others serve"
            finally:
                await asyncio.to_thread(ground.cluster.kill, leader, signal.SIGCONT)
            assert scenario.recorder.gap(frozen_at, time.monotonic()).seconds < 12.0
            await ground.cluster.wait_ready(READY_SECONDS)
            await judged(scenario)

    asyncio.run(play())
