"""After a restart of one node or of all nodes every node has the same market data as before, even without a history."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Iterable
from typing import Any

import aiohttp
import pytest

from loadtest.access import ClusterAccess
from loadtest.flow import ClientFlow
from loadtest.ground import Ground
from loadtest.market import PRODUCTS, Trader, set_up, traders
from loadtest.watch import Watcher
from node.native.protocol import ControlAction, StatusQuery
from statemachine.commands import CancelAll, PlaceOrder
from statemachine.types import OrderType, Side
from tests.real_cluster import READY_SECONDS, SEED, MakeGround

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PRODUCT = PRODUCTS[0].product_id
CHUNKS, CHUNK = 15, 20
"""Requests of each trader, and commands in each."""

TAIL = 50
"""How many events from before the restart a reader asks for."""


def resting(person: Trader, run: str, place: int) -> PlaceOrder:
    """Return an order far below the market."""
    spec = PRODUCTS[0]
    price, size = spec.tick * (1_000 + place), 1_000 * spec.lot
    return PlaceOrder(person.account_id, f"rest-{run}-{place}", PRODUCT, Side.BUY, OrderType.LIMIT, price, size)


async def trade(access: ClusterAccess, people: list[Trader], run: str) -> None:
    """Play the traders' flows of orders on the product."""

    async def flow(person: Trader) -> None:
        client = access.trader_client(person, deadline=30.0)
        commands = ClientFlow(SEED, person.account_id, run, [PRODUCTS[0]])
        try:
            for _ in range(CHUNKS):
                await client.submit(list(itertools.islice(commands, CHUNK)))
            # What stays has no time at which it leaves: nothing changes any more.
            quiet = [CancelAll(person.account_id, f"quiet-{run}", PRODUCT)]
            await client.submit([*quiet, *(resting(person, run, place) for place in range(3))])
        finally:
            await client.close()

    await asyncio.gather(*(flow(person) for person in people))


async def snapshot(access: ClusterAccess, node_id: str, index: int) -> None:
    """Have a node take a snapshot of log entry `index` or of a later one, so that after a restart nothing before it
    comes from the log.
    """
    connection = await access.connect(node_id)
    try:
        async with asyncio.timeout(READY_SECONDS):
            while (await connection.query(StatusQuery())).snapshot_index < index:
                await connection.control(ControlAction.SNAPSHOT)
                await asyncio.sleep(0.5)
    finally:
        await connection.close()


async def market_of(url: str, first: int) -> dict[str, Any]:
    """Return the market data of a node, and the events from `first` up to the sequence of its book."""
    async with aiohttp.ClientSession(url) as session:
        answers: dict[str, Any] = {}
        for call in ("ticker", "stats", "trades?limit=1000", "book?level=3"):
            async with session.get(f"/products/{PRODUCT}/{call}") as response:
                answers[call] = await response.json()
                assert response.status == 200, answers[call]
        async with session.get("/products/volume-summary") as response:
            answers["volume-summary"] = await response.json()
        last = answers["book?level=3"]["sequence"]
        answers["events"] = []
        async with session.ws_connect("/ws") as socket, asyncio.timeout(READY_SECONDS):
            await socket.send_json(
                {"type": "subscribe", "product_ids": [PRODUCT], "channels": ["full", "heartbeat"], "from_sequence": first}
            )
            heartbeat = None
            while heartbeat is None or len(answers["events"]) < last - first + 1:
                message = await socket.receive_json()
                assert message["type"] != "error", message
                if message["type"] == "heartbeat":
                    heartbeat = message
                elif message["type"] != "subscriptions":
                    answers["events"].append(message)
            answers["heartbeat"] = {name: heartbeat[name] for name in ("last_trade_id", "sequence")}
    return answers


async def caught_up(ground: Ground, access: ClusterAccess) -> int:
    """Wait until all nodes have applied the same. Returns the index of the last entry."""
    watcher = Watcher(access)
    try:
        await watcher.wait_equal(READY_SECONDS)
    finally:
        await watcher.close()
    return max(status.applied_index for status in (await ground.cluster.status()).values() if status)


def test_the_market_is_there_after_a_restart(make_ground: MakeGround) -> None:
    ground = make_ground()
    access, people = ClusterAccess(ground.directory), traders(3, SEED)

    async def equal(first: int, wanted: dict[str, Any] | None, nodes: Iterable[str], when: str) -> dict[str, Any]:
        """Wait until these nodes report the same market data, or `wanted` if it is given. A gateway follows its engine
        with a short delay.
        """
        end = time.monotonic() + READY_SECONDS
        while True:
            found = {node_id: await market_of(access.https[node_id], first) for node_id in nodes}
            same = next(iter(found.values())) if wanted is None else wanted
            others = [node_id for node_id, answers in found.items() if answers != same]
            if not others:
                return same
            if time.monotonic() > end:
                assert found[others[0]] == same, f"{when}; {others}"
            await asyncio.sleep(0.2)

    async def play() -> None:
        operator = access.client()
        await set_up(operator, people)
        await operator.close()
        await trade(access, people, "before")
        index = await caught_up(ground, access)
        for node_id in access.https:
            await snapshot(access, node_id, index)
        await trade(access, people, "behind the snapshots")
        await caught_up(ground, access)
        probe = await market_of(next(iter(access.https.values())), 1)
        first = max(1, probe["book?level=3"]["sequence"] - TAIL)
        reference = await equal(1, None, access.https, "at first")
        assert reference["ticker"]["trade_id"] > 0
        assert float(reference["stats"]["volume"]) > 0
        assert len(reference["trades?limit=1000"]) > 20
        assert first > 1

        await asyncio.to_thread(ground.cluster.kill, "n2", signal.SIGKILL)
        await asyncio.to_thread(ground.cluster.restart, "n2")
        await ground.cluster.wait_ready(READY_SECONDS)
        await caught_up(ground, access)
        await equal(1, reference, ["n2"], "one node was restarted")

        await asyncio.to_thread(ground.cluster.stop)
        await ground.start()
        await caught_up(ground, access)
        await equal(1, reference, access.https, "all nodes were restarted")

        await trade(access, people, "afterwards")
        await caught_up(ground, access)
        after = await equal(first, None, access.https, "afterwards")
        assert after["ticker"]["trade_id"] > reference["ticker"]["trade_id"]

    asyncio.run(play())
