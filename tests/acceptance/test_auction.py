"""An auction on three nodes collects orders, loses its leader and opens. Every node then reports the same result."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import aiohttp
import pytest

from loadtest.access import ClusterAccess
from loadtest.books import BookFollower
from loadtest.market import PRODUCTS, Trader, set_up, traders
from loadtest.watch import Watcher, reached
from node.native.client import ClusterClient
from node.native.products import put_again
from node.native.protocol import AuctionQuery, ProductsQuery
from statemachine.events import Placed
from statemachine.types import OrderStatus, ProductStatus
from tests.real_cluster import READY_SECONDS, SEED, MakeGround, trader_flow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PRODUCT = PRODUCTS[0]
CHUNKS, CHUNK = 10, 20
"""Requests of each trader in each part of the day, and commands in each."""


async def flow(access: ClusterAccess, person: Trader, run: str) -> int:
    """Return a trader's flow of orders on the product."""
    outcomes = await trader_flow(access, person, run, product=PRODUCT, requests=CHUNKS, at_once=CHUNK)
    return sum(isinstance(each, Placed) and each.order.status is OrderStatus.ACTIVE for each in outcomes)


async def put_status(operator: ClusterClient, status: ProductStatus) -> None:
    """Change the product's status alone."""
    rows = await operator.query(ProductsQuery(), linearizable=True)
    (row,) = (row for row in rows if row.product_id == PRODUCT.product_id)
    await operator.submit([put_again(row, f"session:{row.product_sequence}", status=status)])


async def listen(url: str, heard: list[dict[str, Any]]) -> None:
    """Collect what a node sends on the channel `auction`."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url.replace("http", "ws", 1) + "/") as socket:
        await socket.send_json({"type": "subscribe", "product_ids": [PRODUCT.product_id], "channels": ["auction"]})
        while True:
            heard.append(await socket.receive_json())


def test_an_auction_survives_the_death_of_the_leader(make_ground: MakeGround) -> None:
    ground = make_ground()
    access, people = ClusterAccess(ground.directory), traders(3, SEED)

    async def play() -> None:
        operator, watcher = access.client(deadline=30.0), Watcher(access)
        await set_up(operator, people)
        await watcher.wait_equal(READY_SECONDS)
        leader = await ground.cluster.leader()
        nodes = [leader, *(node_id for node_id in access.https if node_id != leader)]
        urls = [access.https[node_id] for node_id in nodes]
        followers = [BookFollower(urls[place:] + urls[:place], PRODUCT.product_id) for place in range(3)]
        heard: dict[str, list[dict[str, Any]]] = {url: [] for url in urls[1:]}
        tasks = [asyncio.create_task(follower.run()) for follower in followers]
        listeners = [asyncio.create_task(listen(url, messages)) for url, messages in heard.items()]
        try:
            await asyncio.gather(*(flow(access, person, "continuous") for person in people))
            await put_status(operator, ProductStatus.AUCTION)
            waiting = sum(await asyncio.gather(*(flow(access, person, "collected") for person in people)))
            assert waiting > 50, "an auction that collects nothing shows nothing"
            collecting = [asyncio.create_task(flow(access, person, "through")) for person in people]
            await asyncio.to_thread(ground.cluster.kill, leader, signal.SIGKILL)
            await asyncio.gather(*collecting)
            indicated = await operator.query(AuctionQuery(PRODUCT.product_id), linearizable=True)
            assert indicated is not None
            assert indicated.open_size > 0
            await put_status(operator, ProductStatus.ONLINE)
            assert await operator.query(AuctionQuery(PRODUCT.product_id), linearizable=True) is None
            assert await reached(lambda: all(completed(messages) for messages in heard.values()), READY_SECONDS), heard
            first, second = (completed(messages) for messages in heard.values())
            assert first == second, "both nodes send the same"
            assert first[0]["open_size"] != "0"
            for url in urls[1:]:
                for follower in followers:
                    assert await follower.difference(url, READY_SECONDS) == ""
            await asyncio.to_thread(ground.cluster.start, [leader])
            await asyncio.gather(*(flow(access, person, "afternoon") for person in people))
            level = await watcher.wait_equal(READY_SECONDS)
            assert len({status.state_hash for status in level.values() if status}) == 1
            for follower, url in zip(followers, urls, strict=True):
                assert await follower.difference(url, READY_SECONDS) == ""
        finally:
            for task in (*tasks, *listeners):
                task.cancel()
            ended = await asyncio.gather(*tasks, *listeners, return_exceptions=True)
            await watcher.close()
            await operator.close()
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended

    asyncio.run(play())


def completed(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Wait until the opening is complete, and return its messages."""
    found = [message for message in messages if message.get("auction_state") in ("opening", "complete")]
    return found if found and found[-1]["auction_state"] == "complete" else []
