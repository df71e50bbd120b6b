"""Nodes of version 0.2.0 are replaced one by one while they trade. Then the level changes, and at the end all nodes
return to the level and the software before.
"""

from __future__ import annotations

import asyncio
import functools
import json
import urllib.request
from pathlib import Path

import pytest

from loadtest import rolling
from node.config.file import change_settings
from node.deployment.local_cluster import LocalCluster
from tests.acceptance.test_version_change import command_line
from tests.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NEARLY = 20
"""Log entries."""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install version 0.2.0 from the repository's history."""
    return rolling.install_former(tmp_path_factory.mktemp("former"))


def test_a_cluster_is_upgraded_while_it_trades(former: Path, tmp_path: Path) -> None:
    result = asyncio.run(rolling.run(tmp_path / "cluster", former))
    assert result.faults == []
    assert result.compared > 0
    assert result.acknowledged > 500

    directory = str(tmp_path / "cluster")
    out = tmp_path / "since"
    output = command_line("rollback", "--cluster", directory, "--export", str(out))
    assert output.count("back at ABI 9e8690deb4d9") == 3
    heading, *lines = [json.loads(line) for line in (out / "n1-since-migration.jsonl").read_text().splitlines()]
    assert heading["secrets"]
    assert lines[-1]["commands"], "commands applied at the new level were exported"
    asyncio.run(_former_goes_on(tmp_path / "cluster", former))


def test_a_cluster_returns_to_the_level_before_and_to_its_software(former: Path, tmp_path: Path) -> None:
    """The level goes up, clients trade, the level goes down, clients trade, and each node is replaced by the released
    version while the others trade. One of them is killed. The market databases follow the level in both directions.
    """
    directory = tmp_path / "cluster"
    roll = rolling.Roll(directory, former)
    for path in directory.glob("*/node.toml"):
        change_settings(path, {"history.enabled": True})
    try:
        assert asyncio.run(_up_and_down(roll)) == []
    finally:
        roll.present.stop()


async def _up_and_down(roll: rolling.Roll) -> list[str]:
    await roll.begin()
    await asyncio.to_thread(roll.former.stop)
    await asyncio.to_thread(roll.present.start)
    await roll.present.wait_ready(rolling.READY_SECONDS)
    await roll.change_level()
    async with roll.trading():
        await asyncio.sleep(rolling.BETWEEN_SECONDS)
        index = await roll.change_level(rolling.FORMER)
        for node_id in roll.present.node_ids:
            logged = (roll.directory / node_id / "node.log").read_text()
            assert f"the state of level {rolling.FORMER}" in logged, "each node prepared it beside the trading"
            assert "cannot be used" not in logged
        await asyncio.sleep(rolling.BETWEEN_SECONDS)
        await _all_have_a_snapshot(roll, index)
        for url in roll.present.layout.http_urls.values():
            await asyncio.to_thread(wait_until, functools.partial(_history_follows, url), f"the history of {url} follows", 60)
        leader = await roll.present.leader()
        killed, *stopped = [*(each for each in roll.present.node_ids if each != leader), leader]
        await asyncio.to_thread(roll.present.kill, killed)
        for node_id in (killed, *stopped):
            await asyncio.to_thread(roll.present.stop, [node_id])
            await asyncio.to_thread(roll.former.start, [node_id])
            await roll.former.wait_ready(rolling.READY_SECONDS)
    statuses = await roll.statuses()
    assert {status.software.partition(" ")[0] for status in statuses.values()} == {rolling.FORMER}
    return await roll.judge(statuses)


async def _all_have_a_snapshot(roll: rolling.Roll, index: int) -> None:
    """Wait until every node is at the level of the former version, and has a snapshot of it."""
    async with asyncio.timeout(rolling.READY_SECONDS):
        while True:
            statuses = [status for status in (await roll.present.status()).values() if status is not None]
            assert {status.level for status in statuses} == {rolling.FORMER}
            if all(status.snapshot_index >= index for status in statuses):
                return
            await asyncio.sleep(0.05)


def _history_follows(url: str) -> bool:
    """Return whether the market database has, without a gap, nearly all commands that its node has applied. The node
    continues to apply.
    """
    with urllib.request.urlopen(f"{url}/status", timeout=10) as answer:
        history = json.load(answer)["history"]
    assert history["gaps"] == 0
    return bool(history["confirmed"]) and history["behind"] < NEARLY


async def _former_goes_on(directory: Path, former: Path) -> None:
    """Check that the released version starts on the data that was kept."""
    cluster = LocalCluster(directory, command=rolling.command_of(former))
    try:
        await asyncio.to_thread(cluster.start)
        statuses = await cluster.wait_ready(rolling.READY_SECONDS)
        assert {status.software.partition(" ")[0] for status in statuses.values() if status is not None} == {rolling.FORMER}
    finally:
        await asyncio.to_thread(cluster.stop)
