"""Nodes return with less data than they had: with a log that ends before the compacted part, or with an empty disk. The
cluster serves all the time.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cluster.settings import OFFER_AGAIN
from loadtest.scenario import Plan, Scenario
from loadtest.watch import Statuses, Watcher
from node.errors import NodeStartError
from snapshots.naming import snapshot_paths
from tests.real_cluster import READY_SECONDS, MakeGround, compacted_past, judged, traded

pytestmark = pytest.mark.cluster

PLAN = Plan(seed=5, clients=6, chunk=5, rate=900.0, run="comeback", followed=())


async def a_follower(watcher: Watcher) -> tuple[str, str]:
    """Return a leader and one of its followers."""
    leader = await watcher.wait_leader(READY_SECONDS)
    return leader, next(name for name in await watcher.statuses() if name != leader)


def run(make_ground: MakeGround, play: Callable[[Scenario], Awaitable[None]], every_commands: int = 500) -> None:
    ground = make_ground({"snapshot.every_commands": every_commands})

    async def body() -> None:
        async with Scenario(ground.cluster, ground.directory, PLAN) as scenario:
            await scenario.put_market()
            scenario.start_trading()
            await play(scenario)

    asyncio.run(body())


def gets_a_snapshot(seen: Statuses, node: str) -> bool:
    """Return whether a leader reports that it sends a snapshot to the node."""
    members = [member for status in seen.values() if status is not None for member in status.members]
    return any(member.snapshot_size for member in members if member.node_id == node)


def test_a_node_behind_the_compacted_log_installs_a_snapshot_while_any_node_is_killed(make_ground: MakeGround) -> None:
    """The sender is killed first, so that another leader begins again. Then the receiver is killed, once while it
    receives the snapshot and once when it has it.
    """

    async def play(scenario: Scenario) -> None:
        await traded(scenario, 300)
        leader, follower = await a_follower(scenario.watcher)
        before = await scenario.watcher.status(follower)
        assert before is not None
        await scenario.kill(follower)
        await traded(scenario, 1500)
        await compacted_past(scenario.access, leader, before.last_log_index + 10)

        def has_it(seen: Statuses) -> bool:
            status = seen[follower]
            return status is not None and status.snapshot_index > before.last_log_index

        def under_way(seen: Statuses) -> bool:
            return gets_a_snapshot(seen, follower) or has_it(seen)

        await scenario.restart(follower)
        await scenario.watcher.wait(under_way, "transfer", READY_SECONDS, 0.002)
        await scenario.kill(leader)
        await scenario.restart(leader)
        for stage in (under_way, has_it):
            await scenario.watcher.wait(stage, "transfer after a kill", READY_SECONDS, 0.002)
            await scenario.kill(follower)
            await scenario.restart(follower)
        await scenario.watcher.wait(all_ready, "return of all", READY_SECONDS)
        await traded(scenario, 200)
        await judged(scenario)

    run(make_ground, play)


def all_ready(seen: Statuses) -> bool:
    return all(status is not None and status.ready for status in seen.values())


def data_of(scenario: Scenario, node_id: str) -> Path:
    return scenario.access.layout.configs[node_id].data_path


def test_a_node_that_lost_its_disk_reports_it_and_rejoins(make_ground: MakeGround) -> None:
    async def play(scenario: Scenario) -> None:
        await traded(scenario, 300)
        _, follower = await a_follower(scenario.watcher)
        await scenario.kill(follower)
        # What it acknowledged is gone with its log; the audit reads that of the others.
        shutil.rmtree(data_of(scenario, follower))
        await traded(scenario, 200)
        with pytest.raises(NodeStartError, match="--rejoin"):
            await asyncio.to_thread(scenario.cluster.start, [follower])
        await asyncio.to_thread(lambda: scenario.cluster.start([follower], rejoin=True))
        statuses = await scenario.watcher.wait(
            lambda seen: (back := seen[follower]) is not None and back.ready and back.voter,
            f"{follower} as a voter",
            READY_SECONDS,
        )
        back = statuses[follower]
        assert back is not None
        await traded(scenario, 200)
        await judged(scenario)

    run(make_ground, play)


def damage_newest_snapshot(scenario: Scenario, node_id: str) -> None:
    """Flip a bit in the largest file of a node's newest snapshot."""
    files = snapshot_paths(data_of(scenario, node_id) / "snapshots")[-1].iterdir()
    path = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_leader_with_a_damaged_snapshot_makes_another_for_a_node_without_data(make_ground: MakeGround) -> None:
    async def play(scenario: Scenario) -> None:
        await traded(scenario, 300)
        leader, follower = await a_follower(scenario.watcher)
        await scenario.kill(follower)
        shutil.rmtree(data_of(scenario, follower))
        await compacted_past(scenario.access, leader, 1)
        damage_newest_snapshot(scenario, leader)
        await asyncio.to_thread(lambda: scenario.cluster.start([follower], rejoin=True))
        await scenario.watcher.wait(
            lambda seen: (back := seen[follower]) is not None and back.ready and back.voter,
            f"{follower} as a voter",
            OFFER_AGAIN,
        )
        status = await scenario.watcher.status(leader)
        assert status is not None
        assert status.counters["snapshots_not_taken"] == 1
        await traded(scenario, 200)
        await judged(scenario)

    run(make_ground, play, every_commands=1_000_000)


def test_an_old_copy_of_a_data_directory_is_detected_and_reported(make_ground: MakeGround) -> None:
    """A disk is restored from a snapshot of the machine. Formerly the node never became ready, and no log said why."""

    async def play(scenario: Scenario) -> None:
        await traded(scenario, 100)
        _, follower = await a_follower(scenario.watcher)
        data = data_of(scenario, follower)
        old = data.with_name("old")
        await scenario.kill(follower)
        shutil.copytree(data, old, ignore=shutil.ignore_patterns("*.sock"))
        await scenario.restart(follower)
        await scenario.watcher.wait(all_ready, "the return", READY_SECONDS)
        await traded(scenario, 300)
        await scenario.kill(follower)
        shutil.rmtree(data)
        old.rename(data)

        async def comes_back(*, rejoin: bool = False) -> None:
            await asyncio.to_thread(lambda: scenario.cluster.start([follower], rejoin=rejoin))
            await scenario.cluster.wait_ready(READY_SECONDS, [follower])

        with pytest.raises(NodeStartError, match=r"old or a second copy.*--rejoin"):
            await comes_back()
        statuses = await scenario.watcher.statuses()
        assert sum(status.counters["old_copies_noticed"] for status in statuses.values() if status is not None) >= 1
        with pytest.raises(NodeStartError, match="noticed: "):
            await comes_back(rejoin=True)
        shutil.rmtree(data)
        await comes_back(rejoin=True)
        await scenario.watcher.wait(all_ready, "the return on a new directory", READY_SECONDS)
        await judged(scenario)

    run(make_ground, play)
