"""Books that are rebuilt from every node's feed equal the engine's book, even after cancels and the death of the
leader.
"""

from __future__ import annotations

import asyncio
import functools
import signal

import pytest

from loadtest.access import ClusterAccess
from loadtest.books import BookFollower
from loadtest.market import PRODUCTS, set_up, traders
from loadtest.watch import Watcher
from tests.real_cluster import READY_SECONDS, SEED, MakeGround, trader_flow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PRODUCT = PRODUCTS[0]
CHUNKS, CHUNK = 25, 20
"""Requests of each trader before and after the kill, and commands in each."""

flow = functools.partial(trader_flow, product=PRODUCT, requests=CHUNKS, at_once=CHUNK)


def test_books_rebuilt_from_the_feeds_equal_the_engines(make_ground: MakeGround) -> None:
    ground = make_ground()
    access, people = ClusterAccess(ground.directory), traders(3, SEED)

    async def play() -> None:
        operator = access.client()
        await set_up(operator, people)
        await operator.close()
        watcher = Watcher(access)
        await watcher.wait_equal(READY_SECONDS)
        leader = await ground.cluster.leader()
        nodes = [leader, *(node_id for node_id in access.https if node_id != leader)]
        urls = [access.https[node_id] for node_id in nodes]
        followers = [BookFollower(urls[place:] + urls[:place], PRODUCT.product_id) for place in range(3)]
        tasks = [asyncio.create_task(follower.run()) for follower in followers]
        try:
            await asyncio.gather(*(flow(access, person, "before") for person in people))
            for follower, url in zip(followers, urls, strict=True):
                assert await follower.difference(url, READY_SECONDS) == ""
            trading = [asyncio.create_task(flow(access, person, "after")) for person in people]
            await asyncio.to_thread(ground.cluster.kill, leader, signal.SIGKILL)
            await asyncio.gather(*trading)
            await watcher.wait(
                lambda seen: len({status.sequence for status in seen.values() if status}) == 1, "level survivors", READY_SECONDS
            )
            for follower in followers:
                assert await follower.difference(urls[1], READY_SECONDS) == ""
            assert not any(task.done() for task in tasks), [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await watcher.close()
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
        assert urls[0] in followers[0].visited
        assert set(followers[0].visited) > {urls[0]}, "the reader continued at another node"
        assert followers[1].visited == [urls[1]]
        assert min(follower.events for follower in followers) > 500

    asyncio.run(play())
