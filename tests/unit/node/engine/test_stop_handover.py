"""A leader that stops asks again until a follower has everything."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from cluster.raft import Raft
from node.engine.process import _asked_to_lead


class Leader:
    """A leader whose followers have caught up at the n-th time that it asks, or never if that is 0."""

    node_id = "n1"
    is_leader = True

    def __init__(self, level_at: int, *, connected: bool = True) -> None:
        self.asked = 0
        self._level_at = level_at
        self._connected = connected

    def transfer_leadership(self) -> bool:
        self.asked += 1
        return self.asked == self._level_at

    def status(self) -> SimpleNamespace:
        members = [
            SimpleNamespace(connected=True, member=SimpleNamespace(node_id="n1")),
            SimpleNamespace(connected=self._connected, member=SimpleNamespace(node_id="n2")),
        ]
        return SimpleNamespace(members=members)


async def asked(leader: Leader) -> bool:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return await _asked_to_lead(cast(Raft, leader), ended)


async def test_a_follower_that_lacks_an_entry_is_asked_again() -> None:
    leader = Leader(3)
    assert await asked(leader)
    assert leader.asked == 3


async def test_without_a_connected_peer_the_stop_does_not_wait() -> None:
    leader = Leader(0, connected=False)
    assert not await asked(leader)
    assert leader.asked == 1


async def test_only_a_leader_asks_its_peers() -> None:
    leader = Leader(0)
    leader.is_leader = False
    assert not await asked(leader)
    assert leader.asked == 0
