"""Floods by many keys at once, and what is half said."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import Counter

from tests.attack.registry import attack
from tests.attack.target import Target


@attack("many-accounts", "12 accounts that submit cancels of nothing at the same time, 4 sessions each, 100 at a time")
async def many_accounts(target: Target) -> None:
    leader = await target.leader()
    counts: Counter[str] = Counter()
    numbers = itertools.product(range(len(target.people)), range(4))
    with target.report("commands", counts):
        await asyncio.gather(*(target.flood(leader, number, 100, counts) for number, _ in numbers))


@attack(
    "half-frames",
    "30 sessions of each of 12 keys on every node that send half of the longest frame and stop",
    growth_max=384 * 1024 * 1024,
)
async def half_frames(target: Target) -> None:
    half = (400_000).to_bytes(4, "big") + b"\x93" + b"\x00" * 200_000

    async def send(node_id: str, number: int) -> None:
        reader, writer = await target.session(node_id, number)
        writer.write(half)
        await writer.drain()
        await reader.read()

    senders = [functools.partial(send, number=number) for number in range(len(target.people))]
    await asyncio.gather(*(target.everywhere(30, each, pause=0.5) for each in senders))
