"""The beginning of a recorded hour runs through three real nodes while the leader is killed. Every execution is as
recorded, and the books that are rebuilt from the feeds equal the exchange's.
"""

from __future__ import annotations

import asyncio
import signal

import pytest

from loadtest.access import ClusterAccess
from loadtest.books import BookFollower
from loadtest.watch import Watcher
from node.records.replay import Names, ReplayPlan, replay
from tests.data import RECORDINGS, needs_recordings
from tests.real_cluster import READY_SECONDS, MakeGround
from tests.waiting import until

pytestmark = [pytest.mark.cluster, needs_recordings]

COMMANDS = 6_000
KILLED_AFTER = 2_500


@pytest.mark.parametrize("recording", ["aapl_2012-06-21_sweeps"])
def test_a_recorded_flow_is_replayed_exactly_over_a_failover(make_ground: MakeGround, recording: str) -> None:
    ground = make_ground()
    access = ClusterAccess(ground.directory)
    ops, trades = RECORDINGS / f"{recording}_ops.csv.gz", RECORDINGS / f"{recording}_trades.csv"
    plan = ReplayPlan(ops, trades, limit=COMMANDS, run_id="one", chunk=100)
    product_id = Names.of("one").product_id

    async def play() -> None:
        client = access.client(deadline=30.0)
        urls = list(access.https.values())
        books = [BookFollower(urls[place:] + urls[:place], product_id) for place in range(len(urls))]
        following = [asyncio.create_task(follower.run()) for follower in books]
        watcher = Watcher(access)
        due = asyncio.Event()

        def progress(done: int, total: int) -> None:
            if done >= KILLED_AFTER:
                due.set()

        async def kill_leader() -> str:
            await due.wait()
            leader = await watcher.wait_leader(READY_SECONDS)
            await asyncio.to_thread(ground.cluster.kill, leader, signal.SIGKILL)
            return leader

        try:
            killer = asyncio.create_task(kill_leader())
            report = await replay(client, plan, progress)
            assert report.commands == COMMANDS
            assert report.rejected == 0
            assert report.executed > 100
            assert report.perfect, report
            await asyncio.to_thread(ground.cluster.restart, await killer)
            statuses = await watcher.wait_equal(READY_SECONDS)
            assert len({status.state_hash for status in statuses.values() if status}) == 1
            assert [await follower.difference(urls[0], READY_SECONDS) for follower in books] == [""] * len(books)
            # A reader of the dead node may notice its death after the last event: it has missed nothing, and goes on
            # elsewhere then.
            await until(lambda: max(len(set(follower.visited)) for follower in books) > 1, seconds=READY_SECONDS)
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            await watcher.close()
            await client.close()

    asyncio.run(play())
