"""Floods by many keys at once, and what is half said."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter

from node.errors import ConnectionLost, RequestFailed
from statemachine.commands import CancelOrder
from tests.attack.registry import attack
from tests.attack.target import Target, forever


@attack("many-accounts", "12 accounts that submit cancels of nothing at the same time, 4 sessions each, 100 at a time")
async def many_accounts(target: Target) -> None:
    leader = await target.leader()
    counts: Counter[str] = Counter()

    async def flood(number: int) -> None:
        account_id = target.people[number].account_id
        while True:
            try:
                connection = await target.connect(leader, number)
                while True:
                    try:
                        await connection.submit([CancelOrder(account_id, target.command_id(), 1) for _ in range(100)])
                        counts["applied"] += 100
                    except RequestFailed as error:
                        counts[error.code.name] += 1
            except (ConnectionLost, RequestFailed, OSError) as error:
                counts[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    try:
        await asyncio.gather(*(flood(number) for number, _ in itertools.product(range(len(target.people)), range(4))))
    finally:
        target.say(f"commands: {dict(counts)}")


@attack(
    "half-frames",
    "30 sessions of each of 12 keys on every node that send half of the longest frame and stop",
    growth_max=384 * 1024 * 1024,
)
async def half_frames(target: Target) -> None:
    half = (400_000).to_bytes(4, "big") + b"\x93" + b"\x00" * 200_000

    async def send(node_id: str, number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await target.session(node_id, number)
                writer.write(half)
                await writer.drain()
                await reader.read()
            await asyncio.sleep(0.5)

    tasks = [
        asyncio.ensure_future(send(node_id, number))
        for node_id, number, _ in itertools.product(target.natives, range(len(target.people)), range(30))
    ]
    try:
        await forever()
    finally:
        for task in tasks:
            task.cancel()
