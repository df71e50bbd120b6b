"""Real clusters of three nodes on loopback. Tests that change nothing share one; tests that break something get new
ones.

Every node is stopped at the end, and killed by pid if it does not stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from click.testing import CliRunner, Result

from loadtest.access import ClusterAccess
from loadtest.flow import ClientFlow
from loadtest.ground import Ground, prepare
from loadtest.market import ProductSpec, Trader, set_up, traders
from loadtest.scenario import Scenario
from loadtest.watch import Statuses, reached
from node.cli import main
from node.config.file import Setting
from node.native.protocol import ControlAction, StatusQuery
from statemachine.events import AnyOutcome

READY_SECONDS = 40.0
SEED = 7


class Exchange:
    """A running cluster with a market and traders."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.cluster = ground.cluster
        self.directory = ground.directory
        self.access = ClusterAccess(ground.directory)
        self.people: list[Trader] = traders(6, SEED)

    async def leader_url(self) -> str:
        """Return the leader's base URL."""
        await self.cluster.wait_ready(READY_SECONDS)
        return self.access.https[await self.cluster.leader()]


def run_cli(directory: Path, *arguments: str, code: int | None = 0) -> Result:
    """Run a command line against a cluster. Raises AssertionError for another exit code than `code`, if that is not None."""
    result = CliRunner(env={"QUORUMBOOK_CLUSTER": str(directory)}).invoke(main, list(arguments))
    assert code is None or result.exit_code == code, f"{arguments}: exit code {result.exit_code}\n{result.output}"
    return result


class MakeGround(Protocol):
    """The fixture `make_ground`."""

    def __call__(self, settings: Mapping[str, Setting] | None = None) -> Ground:
        """Start a fresh cluster with these settings (see `loadtest.ground.prepare`) and wait until it serves."""


def start(ground: Ground) -> None:
    """Start the nodes and wait until they serve."""
    asyncio.run(ground.start())


def end(ground: Ground) -> None:
    """Stop every node, and kill those that do not stop."""
    try:
        ground.stop()
    finally:
        for node_id in ground.cluster.running():
            ground.cluster.kill(node_id, signal.SIGKILL)


@pytest.fixture(scope="session")
def shared_exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    """Yield a cluster with a market, for tests that change nothing lasting."""
    with exchange_in(tmp_path_factory.mktemp("shared") / "cluster") as exchange:
        yield exchange


@contextlib.contextmanager
def exchange_in(directory: Path) -> Iterator[Exchange]:
    """Yield a new cluster with a market."""
    ground = prepare(directory)
    try:
        start(ground)
        exchange = Exchange(ground)
        asyncio.run(put_market(exchange))
        yield exchange
    finally:
        end(ground)


async def put_market(exchange: Exchange) -> None:
    """Create currencies, products and accounts, and deposit money."""
    operator = exchange.access.client()
    try:
        await set_up(operator, exchange.people)
    finally:
        await operator.close()


async def trader_flow(
    access: ClusterAccess, person: Trader, run: str, *, product: ProductSpec, requests: int, at_once: int
) -> list[AnyOutcome]:
    """Send a trader's random orders on a product, `at_once` commands in a request. Returns their outcomes."""
    client = access.trader_client(person, deadline=30.0)
    commands = ClientFlow(SEED, person.account_id, run, [product])
    outcomes: list[AnyOutcome] = []
    try:
        for _ in range(requests):
            outcomes += await client.submit(list(itertools.islice(commands, at_once)))
    finally:
        await client.close()
    return outcomes


async def compacted_past(access: ClusterAccess, node_id: str, index: int) -> None:
    """Let a node take snapshots until its log begins after `index`."""
    connection = await access.connect(node_id)
    try:
        async with asyncio.timeout(READY_SECONDS):
            asked = -1
            while True:
                status = await connection.query(StatusQuery())
                if status.first_log_index > index:
                    break
                # One at a time: with another one under way the newest would not be the one that is looked at behind this.
                if status.snapshot_index != asked:
                    asked = status.snapshot_index
                    await connection.control(ControlAction.SNAPSHOT)
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


@pytest.fixture
def make_ground(tmp_path: Path) -> Iterator[MakeGround]:
    """Return a function that starts a cluster for one test."""
    grounds: list[Ground] = []

    def make(settings: Mapping[str, Setting] | None = None) -> Ground:
        ground = prepare(tmp_path / f"cluster{len(grounds)}", settings=settings)
        grounds.append(ground)
        start(ground)
        return ground

    try:
        yield make
    finally:
        for ground in grounds:
            end(ground)


async def traded(scenario: Scenario, count: int) -> None:
    """Wait for `count` more acknowledgements, which show that the cluster serves."""
    wanted = scenario.recorder.acknowledged + count
    assert await reached(lambda: scenario.recorder.acknowledged >= wanted, READY_SECONDS)
    scenario.check_tasks()


async def judged(scenario: Scenario, visits_min: int = 1) -> Statuses:
    """Stop trading, and check that the verdict holds. Returns the nodes' statuses."""
    await scenario.stop_trading()
    statuses = await scenario.settle()
    verdict = await scenario.judge(statuses, visits_min=visits_min)
    assert verdict.holds, [check for check in verdict.checks if not check.holds]
    return statuses
