"""Nodes are added and removed while clients trade: no command is lost whichever node is killed meanwhile. The tests
also cover replicas, which only read.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp
import pytest

from loadtest.books import BookFollower
from loadtest.reader import FeedChecker
from loadtest.scenario import Plan, Scenario
from loadtest.watch import Statuses, reached
from node.deployment.member_changes import Addition, MemberChanges
from node.errors import MembershipError, NodeStartError, RequestFailed
from node.native.protocol import FailCode, NodeStatus, StatusQuery
from statemachine.commands import OpenAccount
from statemachine.limits import OPERATOR
from tests.real_cluster import READY_SECONDS, MakeGround, judged, traded

pytestmark = pytest.mark.cluster

PLAN = Plan(seed=11, clients=6, chunk=5, rate=500.0, run="members", followed=("BTC-USD",))
COMMAND = (sys.executable, "-c", "from node.cli import main; main()", "cluster")


def run(make_ground: MakeGround, play: Callable[[Scenario, MemberChanges], Awaitable[None]], snapshot_commands: int) -> list[str]:
    """Run `play` on a fresh cluster under load. Returns the lines that the operator saw."""
    ground = make_ground({"snapshot.every_commands": snapshot_commands})
    lines: list[str] = []

    async def body() -> None:
        changes = MemberChanges(ground.cluster, lines.append)
        try:
            async with Scenario(ground.cluster, ground.directory, PLAN) as scenario:
                await scenario.put_market()
                scenario.start_trading()
                await play(scenario, changes)
        finally:
            await changes.close()

    asyncio.run(body())
    return lines


async def add(scenario: Scenario, changes: MemberChanges, wanted: Addition) -> None:
    await changes.add(wanted, READY_SECONDS)
    scenario.members_changed()


async def remove(scenario: Scenario, changes: MemberChanges, node_id: str) -> None:
    await changes.remove(node_id)
    scenario.members_changed()


def _all_connected(statuses: Iterable[NodeStatus | None]) -> bool:
    return all(status is not None and status.ready and all(member.connected for member in status.members) for status in statuses)


def add_in_pieces(directory: Path, node_id: str, stops: tuple[str, ...]) -> str:
    """Run `cluster add`, kill it as soon as it has printed each of `stops`, and run it again. Returns its last output."""
    argv = [*COMMAND, "add", str(directory), node_id, "--wait", str(READY_SECONDS)]
    for stop in stops:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
            assert process.stdout is not None
            assert any(stop in line for line in process.stdout), f"ended without saying {stop!r}"
            process.kill()
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=READY_SECONDS).stdout


def test_a_cluster_grows_and_shrinks_under_load(make_ground: MakeGround) -> None:
    async def play(scenario: Scenario, changes: MemberChanges) -> None:
        scenario.start_readers(await scenario.watcher.wait_leader(READY_SECONDS))
        await traded(scenario, 500)
        directory = scenario.access.directory
        output = await asyncio.to_thread(add_in_pieces, directory, "n4", ("its directory is", "added with"))
        assert "n4 is a voter now" in output
        scenario.members_changed()
        leader = await scenario.watcher.wait_leader(READY_SECONDS)
        adding = asyncio.create_task(add(scenario, changes, Addition("n5")))
        assert await reached(lambda: "n5" in scenario.cluster.layout.configs, READY_SECONDS)
        await scenario.kill(leader)
        await adding
        await scenario.restart(leader)
        await scenario.watcher.wait(lambda seen: _all_connected(seen.values()), "five nodes that reach each other", READY_SECONDS)
        await traded(scenario, 300)
        five = await changes.status()
        assert {member.node_id: member.role for member in five.members} == dict.fromkeys(("n1", "n2", "n3", "n4", "n5"), "voter")

        first = await scenario.watcher.wait_leader(READY_SECONDS)
        await remove(scenario, changes, first)
        second = next(name for name in ("n1", "n2", "n3") if name != first)
        await remove(scenario, changes, second)
        await traded(scenario, 300)
        scenario.kills.clear()
        statuses = await judged(scenario)
        assert set(statuses) == {"n1", "n2", "n3", "n4", "n5"} - {first, second}
        with pytest.raises(NodeStartError, match=f"{first} was removed from the cluster"):
            await asyncio.to_thread(scenario.cluster.start, [first])

    lines = run(make_ground, play, 400)
    assert any("leads; it transfers its leadership first" in line for line in lines)


def test_a_dead_node_is_replaced(make_ground: MakeGround) -> None:
    async def play(scenario: Scenario, changes: MemberChanges) -> None:
        await traded(scenario, 300)
        leader = await scenario.watcher.wait_leader(READY_SECONDS)
        dead, alive = sorted({"n1", "n2", "n3"} - {leader})
        await asyncio.to_thread(scenario.cluster.kill, dead, signal.SIGKILL)
        with pytest.raises(MembershipError, match=f"2 of them are needed, and 1 can be reached: .*Start {dead} again"):
            await _once_lost(scenario, changes, dead, alive)
        await changes.replace(dead, Addition("n4"), READY_SECONDS)
        await changes.replace(dead, Addition("n4"), READY_SECONDS)
        scenario.members_changed()
        await traded(scenario, 300)
        assert set(await judged(scenario)) == {leader, alive, "n4"}

    lines = run(make_ground, play, 400)
    assert any("is not a member of the cluster" in line for line in lines), "the same command again"


async def _once_lost(scenario: Scenario, changes: MemberChanges, dead: str, alive: str) -> None:
    """Request the removal of a node as soon as the leader has noticed that another one is dead."""

    def noticed(seen: Statuses) -> bool:
        leaders = [status for status in seen.values() if status is not None and status.role == "leader"]
        return any(not member.connected for status in leaders for member in status.members if member.node_id == dead)

    await scenario.watcher.wait(noticed, f"loss of {dead}", READY_SECONDS)
    await changes.remove(alive)


def test_a_read_only_replica_serves_and_does_not_vote(make_ground: MakeGround) -> None:
    async def play(scenario: Scenario, changes: MemberChanges) -> None:
        await traded(scenario, 100)
        await add(scenario, changes, Addition("r1", read_only=True))
        access = scenario.access
        readers = [
            FeedChecker("BTC-USD", {node_id: access.natives[node_id]}, node_id, tls=access.tls(), credentials=access.admin)
            for node_id in ("n1", "r1")
        ]
        for reader in readers:
            scenario._start_reader(reader)
        books = BookFollower([access.https["r1"]], "BTC-USD")
        following = asyncio.create_task(books.run())
        await traded(scenario, 200)
        leader = await scenario.watcher.wait_leader(READY_SECONDS)
        await _refuses_commands(scenario, leader)
        statuses = await judged(scenario)
        voter, replica = readers
        assert replica.tally.events == voter.tally.events > 0
        assert replica.tally.digest == voter.tally.digest, "the same events in the same order"
        assert await books.difference(access.https["r1"], READY_SECONDS) == ""
        following.cancel()
        assert isinstance((await asyncio.gather(following, return_exceptions=True))[0], asyncio.CancelledError)
        status = statuses["r1"]
        assert status is not None
        assert not status.voter
        assert all(other is None or other.node_id == "r1" or other.voter for other in statuses.values())
        await _is_no_part_of_a_majority(scenario, leader)

    run(make_ground, play, 100_000)


async def _refuses_commands(scenario: Scenario, leader: str) -> None:
    """Check that the replica answers a command with the leader's address, on both ports."""
    connection = await scenario.access.connect("r1")
    try:
        with pytest.raises(RequestFailed) as caught:
            await connection.submit([OpenAccount(OPERATOR, "r1-test", "nobody")])
    finally:
        await connection.close()
    assert caught.value.code is FailCode.NOT_LEADER
    assert caught.value.leader is not None
    assert caught.value.leader.native == scenario.access.natives[leader]
    await scenario.cluster.wait_ready(READY_SECONDS, ["r1"])  # its gateway may begin to listen after its engine has caught up
    async with aiohttp.ClientSession(scenario.access.https["r1"]) as session:
        async with session.get("/products/BTC-USD/book", params={"level": "2"}) as response:
            assert response.status == 200
            assert (await response.json())["sequence"] > 0
        linear = {"level": "1", "consistency": "linearizable"}
        async with session.get("/products/BTC-USD/book", params=linear, allow_redirects=False) as response:
            assert response.status == 307
            assert response.headers["Location"].startswith(scenario.access.https[leader])


async def _is_no_part_of_a_majority(scenario: Scenario, leader: str) -> None:
    """While only one voter of three and the replica run, no node leads, and the replica still answers."""
    for node_id in sorted({"n1", "n2", "n3"} - {leader}):
        await asyncio.to_thread(scenario.cluster.kill, node_id, signal.SIGKILL)
    await scenario.watcher.wait(
        lambda seen: all(status is None or status.role != "leader" for status in seen.values()),
        "end of the leadership",
        READY_SECONDS,
    )
    connection = await scenario.access.connect("r1")
    try:
        status = await connection.query(StatusQuery())
    finally:
        await connection.close()
    assert status.role == "follower"
    assert status.sequence > 0
