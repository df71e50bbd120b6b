"""Each node of a loaded cluster is killed in turn with SIGKILL and started again. No acknowledged command is lost, and
none is applied twice.
"""

from __future__ import annotations

import asyncio

import pytest

from loadtest.scenario import Plan, Scenario
from tests.real_cluster import READY_SECONDS, MakeGround, judged, traded

pytestmark = pytest.mark.cluster

PLAN = Plan(seed=11, clients=8, chunk=5, rate=1000.0, run="kill-each")
TRADED_BETWEEN = 700
"""Commands acknowledged before, and after, each kill."""


@pytest.mark.timeout(300)
def test_a_kill_of_each_node_loses_nothing(make_ground: MakeGround) -> None:
    ground = make_ground({"snapshot.every_commands": 300})

    async def play() -> None:
        async with Scenario(ground.cluster, ground.directory, PLAN) as scenario:
            await scenario.put_market()
            scenario.start_trading()
            scenario.start_readers(await scenario.watcher.wait_leader(READY_SECONDS))
            for node_id in sorted(scenario.access.natives):
                await traded(scenario, TRADED_BETWEEN)
                kill = await scenario.kill(node_id)
                await traded(scenario, TRADED_BETWEEN)
                await scenario.measure(kill)
                await scenario.restart(node_id)
                await ground.cluster.wait_ready(READY_SECONDS)
            await judged(scenario)
            assert any(kill.led for kill in scenario.kills), "one of three nodes killed in turn must have led"
            assert max(kill.gap for kill in scenario.kills) < 10.0

    asyncio.run(play())
