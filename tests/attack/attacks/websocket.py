"""Attacks over WebSocket and on public market data: nobody's key is needed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections import Counter

import aiohttp
import msgspec

from loadtest.market import PRODUCTS
from node.errors import RequestFailed
from statemachine.commands import CancelAll, PlaceOrder
from statemachine.events import Placed
from statemachine.types import OrderType, Side, StopType
from tests.attack.registry import attack
from tests.attack.target import ATTACKER_HOST, Target, forever

SPEC = PRODUCTS[0]
PRODUCT = SPEC.product_id
QUICK = aiohttp.ClientWSTimeout(ws_close=0.5)
"""An attacker does not wait for goodbyes."""
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def text_frame(message: object) -> bytes:
    """Return a masked text frame of less than 64 KiB, as a client sends it. The mask is zero."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return b"\x81" + (bytes([0x80 | 126]) + len(body).to_bytes(2, "big")) + b"\0\0\0\0" + body


async def raw(target: Target, node_id: str, *, window: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket connection from the attacker's address. `window`: bytes that its system takes for it. Raises OSError."""
    host, port = target.http_address(node_id)
    plain = socket.socket()
    if window:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    plain.setblocking(False)
    plain.bind((ATTACKER_HOST, 0))
    await asyncio.get_running_loop().sock_connect(plain, (host, port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4_096 if window else 2**16)
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@attack("ws-long-lists", "messages of 58 KB that name thousands of channels and thousands of products, to every node")
async def long_lists(target: Target) -> None:
    names = [f"{number:x}" for number in range(5_000)]
    body = {"type": "unsubscribe", "product_ids": names, "channels": ["full"] * 4_000}
    answers: Counter[str] = Counter()

    async def storm(node_id: str) -> None:
        async with target.http() as session, session.ws_connect(f"{target.https[node_id]}/ws", timeout=QUICK) as channel:
            while True:
                await channel.send_str(json.dumps(body, separators=(",", ":")))
                answers[(await channel.receive()).type.name] += 1

    with target.report("answers", answers):
        await target.everywhere(4, storm, pause=0.02)


@attack(
    "ws-pings",
    "pings, pongs and empty binary frames as fast as they are taken, on connections that are made again when they are cut",
)
async def pings(target: Target) -> None:
    sent: Counter[str] = Counter()

    async def storm(node_id: str, kind: str, frame: bytes) -> None:
        reader, writer = await raw(target, node_id)
        drain = asyncio.create_task(reader.read())
        drain.add_done_callback(lambda task: task.cancelled() or task.exception())
        while not drain.done():
            writer.write(frame * 500)
            await writer.drain()
            sent[kind] += 500

    kinds = {"ping": b"\x89\x80\0\0\0\0", "pong": b"\x8a\x80\0\0\0\0", "binary": b"\x82\x80\0\0\0\0"}
    storms = [functools.partial(storm, kind=kind, frame=frame) for kind, frame in kinds.items()]
    with target.report("frames sent", sent):
        await asyncio.gather(*(target.everywhere(1, each, pause=0.02) for each in storms))


@attack("ws-hoard", "as many idle WebSocket connections as a node takes")
async def hoard(target: Target) -> None:
    held: list[asyncio.StreamWriter] = []

    async def take(node_id: str) -> None:
        _, writer = await raw(target, node_id)
        held.append(writer)

    try:
        await target.everywhere(1, take, pause=0.005)
    finally:
        target.say(f"connections opened: {len(held)}")


@attack(
    "ws-slow-resumers", "readers that ask for all kept events of a product and read none, on every node, again when they are cut"
)
async def slow_resumers(target: Target) -> None:
    asked: Counter[str] = Counter()

    async def stall(node_id: str) -> None:
        _, writer = await raw(target, node_id, window=4_096)
        message = {"type": "subscribe", "product_ids": [PRODUCT], "channels": ["full"], "from_sequence": 1}
        writer.write(text_frame(message))
        asked[node_id] += 1
        await asyncio.sleep(5)
        writer.close()

    with target.report("resumes asked for", asked):
        await target.everywhere(20, stall, pause=0.1)


@attack("ws-snapshots", "the whole depth of a product again and again, by subscribing and unsubscribing")
async def snapshots(target: Target) -> None:
    got: Counter[str] = Counter()

    async def storm(node_id: str) -> None:
        message = {"product_ids": [PRODUCT], "channels": ["level2", "level2_batch"]}
        async with (
            target.http() as session,
            session.ws_connect(f"{target.https[node_id]}/ws", max_msg_size=0, timeout=QUICK) as channel,
        ):
            for _ in range(90):
                await channel.send_json({"type": "subscribe"} | message)
                await channel.send_json({"type": "unsubscribe"} | message)
            async with asyncio.timeout(2):
                while (answer := await channel.receive()).type is aiohttp.WSMsgType.TEXT:
                    got[json.loads(answer.data)["type"]] += 1

    with target.report("messages got", got):
        await target.everywhere(4, storm, pause=0.02)


async def _large_book(target: Target) -> None:
    """16,000 orders of the attacker's, far below the market."""
    leader, taken = await target.leader(), 0
    for number, person in enumerate(target.people[:4]):
        client = await target.connect(leader, number)
        for part in range(8):
            orders = [
                PlaceOrder(
                    person.account_id,
                    target.command_id(),
                    PRODUCT,
                    Side.BUY,
                    OrderType.LIMIT,
                    SPEC.tick * (100 + part * 500 + place),
                    SPEC.min_size * 10,
                )
                for place in range(500)
            ]
            while True:
                try:
                    outcomes = await client.submit(orders)
                except RequestFailed:
                    await asyncio.sleep(0.5)
                    continue
                taken += sum(isinstance(outcome, Placed) for outcome in outcomes)
                break
        await client.close()
    target.say(f"orders rest: {taken}")
    assert taken > 10_000


@attack(
    "level3-flood",
    "GET book?level=3 of a large book, many at once on every node; half of the answers are never read",
    prepare=_large_book,
)
async def level3_flood(target: Target) -> None:
    answers: Counter[str] = Counter()

    async def ask(node_id: str) -> None:
        async with target.http() as session:
            while True:
                with contextlib.suppress(OSError, aiohttp.ClientError):
                    async with session.get(f"{target.https[node_id]}/products/{PRODUCT}/book?level=3") as response:
                        answers[str(response.status)] += 1
                        await response.read()

    async def never_read(node_id: str) -> None:
        host, port = target.http_address(node_id)
        while True:
            with contextlib.suppress(OSError):
                plain = socket.socket()
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                plain.setblocking(False)
                plain.bind((ATTACKER_HOST, 0))
                await asyncio.get_running_loop().sock_connect(plain, (host, port))
                _, writer = await asyncio.open_connection(sock=plain, limit=4_096)
                writer.write(f"GET /products/{PRODUCT}/book?level=3 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answers["unread"] += 1
                await asyncio.sleep(5)
                writer.close()

    with target.report("answers", answers):
        await asyncio.gather(
            *(each(node_id) for node_id in target.https for each in (ask, ask, never_read, never_read, never_read))
        )


@attack("stop-cascade", "thousands of stop orders that one trade triggers, again and again, with readers attached on every node")
async def stop_cascade(target: Target) -> None:
    seen: Counter[str] = Counter()

    async def read(node_id: str) -> None:
        async with (
            target.http() as session,
            session.ws_connect(f"{target.https[node_id]}/ws", max_msg_size=0, timeout=QUICK) as channel,
        ):
            await channel.send_json({"type": "subscribe", "product_ids": [PRODUCT], "channels": ["full"]})
            last = 0
            async for answer in channel:
                sequence = json.loads(answer.data).get("sequence", 0)
                assert not last or sequence in (0, last + 1), f"a gap behind {last}"
                last = sequence or last
                seen["events"] += bool(sequence)
        raise AssertionError(f"a reader at {node_id} was cut off with {channel.close_code}")

    async def cascade() -> None:
        leader = await target.leader()
        clients = [await target.connect(leader, number) for number in range(4)]
        names = [person.account_id for person in target.people[:4]]

        def order(name: str, side: Side, ticks: int, **stop: object) -> PlaceOrder:
            price, size = ticks * SPEC.tick, SPEC.min_size
            place = PlaceOrder(name, target.command_id(), PRODUCT, side, OrderType.LIMIT, price, size)
            return msgspec.structs.replace(place, **stop)

        mid = SPEC.opening_ticks
        while True:
            for client, name in zip(clients, names, strict=True):
                # The next trade triggers them, whatever its price; then they rest far above the market.
                stop = {"stop": StopType.LOSS, "stop_price": 2 * mid * SPEC.tick}
                with contextlib.suppress(RequestFailed):
                    outcomes = await client.submit([order(name, Side.SELL, 3 * mid, **stop) for _ in range(500)])
                    seen["stops placed"] += sum(isinstance(outcome, Placed) for outcome in outcomes)
            with contextlib.suppress(RequestFailed):
                await clients[0].submit([order(names[0], Side.BUY, mid + 50)])
                await clients[1].submit([order(names[1], Side.SELL, mid - 50)])
            for client, name in zip(clients, names, strict=True):
                with contextlib.suppress(RequestFailed):
                    await client.submit([CancelAll(name, target.command_id(), PRODUCT)])
            seen["cascades"] += 1

    with target.report("readers and cascades", seen):
        await asyncio.gather(cascade(), *(read(node_id) for node_id in target.https), forever())
