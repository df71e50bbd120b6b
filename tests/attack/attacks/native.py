"""Attacks on the native protocol with one trader's key, which may be anybody's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter

from node.errors import ConnectionLost, RequestFailed
from node.native.protocol import FRAME_MAX
from statemachine.commands import CancelOrder
from tests.attack.registry import attack
from tests.attack.target import Target, forever, read_frame


@attack(
    "malformed-frames",
    "frames of the longest length that hold hundreds of thousands of empty arrays, to every node, again and again",
)
async def malformed_frames(target: Target) -> None:
    count = FRAME_MAX - 64
    body = b"\x93\x02\x01\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    sent: Counter[str] = Counter()

    async def storm(node_id: str) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await target.session(node_id)
                while True:
                    writer.write(len(body).to_bytes(4, "big") + body)
                    await writer.drain()
                    if not await read_frame(reader):
                        break
                    sent[node_id] += 1
            await asyncio.sleep(0.05)

    try:
        await asyncio.gather(*(storm(node_id) for node_id in target.natives for _ in range(4)))
    finally:
        target.say(f"malformed frames answered: {dict(sent)}")


@attack("command-flood", "30 sessions of one key that submit 1,000 cancels of nothing at a time, as fast as they are answered")
async def command_flood(target: Target) -> None:
    leader = await target.leader()
    done: Counter[str] = Counter()
    account_id = target.people[0].account_id

    async def flood() -> None:
        while True:
            try:
                connection = await target.connect(leader)
                while True:
                    try:
                        await connection.submit([CancelOrder(account_id, target.command_id(), 1) for _ in range(1_000)])
                        done["applied"] += 1_000
                    except RequestFailed as error:
                        done[error.code.name] += 1
            except (ConnectionLost, RequestFailed, OSError) as error:
                done[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    try:
        await asyncio.gather(*(flood() for _ in range(30)))
    finally:
        target.say(f"commands: {dict(done)}")


@attack("idle-sessions", "a thousand sessions of one key on every node that do nothing, and come again when they are cut off")
async def idle_sessions(target: Target) -> None:
    open_now: Counter[str] = Counter()
    peak: Counter[str] = Counter()

    async def sit(node_id: str) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await target.session(node_id)
                open_now[node_id] += 1
                peak[node_id] = max(peak[node_id], open_now[node_id])
                await reader.read()
                open_now[node_id] -= 1
                writer.close()
            await asyncio.sleep(1.0)

    try:
        await asyncio.gather(*(sit(node_id) for node_id, _ in itertools.product(target.natives, range(1_000))))
    finally:
        target.say(f"sessions open at once: {dict(peak)}")


@attack(
    "silent-connections",
    "1,500 TCP connections to every node's native port that say nothing, and come again when they are cut off",
)
async def silent_connections(target: Target) -> None:
    async def sit(node_id: str) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await target.tcp(node_id)
                await reader.read()
                writer.close()
            await asyncio.sleep(0.2)

    tasks = [asyncio.ensure_future(sit(node_id)) for node_id, _ in itertools.product(target.natives, range(1_500))]
    try:
        await forever()
    finally:
        for task in tasks:
            task.cancel()


@attack("handshakes", "TLS handshakes one after the other from 20 lines to every node, without a key")
async def handshakes(target: Target) -> None:
    done: Counter[str] = Counter()

    async def knock(node_id: str) -> None:
        while True:
            try:
                _, writer = await target.tls(node_id)
                writer.transport.abort()
                done["done"] += 1
            except OSError as error:
                done[type(error).__name__] += 1
                await asyncio.sleep(0.01)

    try:
        await asyncio.gather(*(knock(node_id) for node_id, _ in itertools.product(target.natives, range(20))))
    finally:
        target.say(f"handshakes: {dict(done)}")
