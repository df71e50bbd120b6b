"""Attacks on the native protocol with one trader's key, which may be anybody's."""

from __future__ import annotations

import asyncio
from collections import Counter

from node.native.protocol import FRAME_MAX
from tests.attack.registry import attack
from tests.attack.target import Target, read_frame


@attack(
    "malformed-frames",
    "frames of the longest length that hold hundreds of thousands of empty arrays, to every node, again and again",
)
async def malformed_frames(target: Target) -> None:
    count = FRAME_MAX - 64
    body = b"\x93\x02\x01\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    sent: Counter[str] = Counter()

    async def storm(node_id: str) -> None:
        reader, writer = await target.session(node_id)
        while True:
            writer.write(len(body).to_bytes(4, "big") + body)
            await writer.drain()
            if not await read_frame(reader):
                break
            sent[node_id] += 1

    with target.report("malformed frames answered", sent):
        await target.everywhere(4, storm)


@attack("command-flood", "30 sessions of one key that submit 1,000 cancels of nothing at a time, as fast as they are answered")
async def command_flood(target: Target) -> None:
    leader = await target.leader()
    done: Counter[str] = Counter()
    with target.report("commands", done):
        await asyncio.gather(*(target.flood(leader, 0, 1_000, done) for _ in range(30)))


@attack("idle-sessions", "a thousand sessions of one key on every node that do nothing, and come again when they are cut off")
async def idle_sessions(target: Target) -> None:
    open_now: Counter[str] = Counter()
    peak: Counter[str] = Counter()

    async def sit(node_id: str) -> None:
        reader, writer = await target.session(node_id)
        open_now[node_id] += 1
        peak[node_id] = max(peak[node_id], open_now[node_id])
        await reader.read()
        open_now[node_id] -= 1
        writer.close()

    with target.report("sessions open at once", peak):
        await target.everywhere(1_000, sit, pause=1.0)


@attack(
    "silent-connections",
    "1,500 TCP connections to every node's native port that say nothing, and come again when they are cut off",
)
async def silent_connections(target: Target) -> None:
    async def sit(node_id: str) -> None:
        reader, writer = await target.tcp(node_id)
        await reader.read()
        writer.close()

    await target.everywhere(1_500, sit, pause=0.2)


@attack("handshakes", "TLS handshakes one after the other from 20 lines to every node, without a key")
async def handshakes(target: Target) -> None:
    done: Counter[str] = Counter()

    async def knock(node_id: str) -> None:
        try:
            _, writer = await target.tls(node_id)
            writer.transport.abort()
            done["done"] += 1
        except OSError as error:
            done[type(error).__name__] += 1
            await asyncio.sleep(0.01)

    with target.report("handshakes", done):
        await target.everywhere(20, knock, pause=0.0)
