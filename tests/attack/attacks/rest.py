"""Attacks on the gateways' HTTP, most of them without a key."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter

from tests.attack.registry import attack
from tests.attack.target import ATTACKER_HOST, Target, signed

HEAD = b"POST /orders HTTP/1.1\r\nHost: x\r\n"


async def _connect(target: Target, node_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = target.http_address(node_id)
    return await asyncio.open_connection(host, port, local_addr=(ATTACKER_HOST, 0))


@attack("http-slow-requests", "600 connections to every node that send a byte of a request's head or body each second")
async def slow_requests(target: Target) -> None:
    begun = itertools.count()

    async def drip(node_id: str) -> None:
        _reader, writer = await _connect(target, node_id)
        try:
            writer.write(HEAD + (b"Content-Length: 60000\r\n\r\n" if next(begun) % 2 else b""))
            while not writer.is_closing():
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(1.0)
        finally:
            writer.close()

    await target.everywhere(600, drip)


@attack("http-header-floods", "heads without end: one long header, thousands of headers, a long target, to every node")
async def header_floods(target: Target) -> None:
    endless = (b"A: " + b"b" * 16_384, b"A: b\r\n" * 2_048, b"A" * 16_384)
    sent: Counter[str] = Counter()

    async def flood(node_id: str) -> None:
        _reader, writer = await _connect(target, node_id)
        piece = endless[sent[node_id] % 3]
        sent[node_id] += 1
        try:
            writer.write(HEAD)
            while not writer.is_closing():
                writer.write(piece)
                await writer.drain()
        finally:
            writer.close()

    with target.report("heads begun", sent):
        await target.everywhere(10, flood, pause=0.0)


@attack("http-hoarding", "1,500 connections to every node that ask once and stay")
async def hoarding(target: Target) -> None:
    held: Counter[str] = Counter()

    async def hold(node_id: str) -> None:
        reader, writer = await _connect(target, node_id)
        try:
            writer.write(b"GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
            if (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200"):
                held[node_id] += 1
                await reader.read()
                await asyncio.sleep(60)
        finally:
            writer.close()

    with target.report("connections that were answered", held):
        await target.everywhere(1_500, hold, pause=0.5)


@attack("http-garbage", "what is not HTTP, each time on a new connection, to every node as fast as it comes")
async def garbage(target: Target) -> None:
    answered: Counter[bytes] = Counter()

    async def throw(node_id: str) -> None:
        reader, writer = await _connect(target, node_id)
        try:
            writer.write(b"GET /time HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n")
            answered[(await reader.read())[:12]] += 1
        finally:
            writer.close()

    with target.report("answers", answered):
        await target.everywhere(30, throw, pause=0.0)


@attack("http-unread-answers", "connections to every node that ask for lists and books, many at once, and never read")
async def unread_answers(target: Target) -> None:
    ask = b"".join(
        b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"/products/BTC-USD/book?level=3", b"/openapi.json") * 50
    )

    async def never_read(node_id: str) -> None:
        reader, writer = await _connect(target, node_id)
        with contextlib.suppress(OSError):
            reader._transport.pause_reading()  # type: ignore[attr-defined]  # the reader itself must not read ahead either
            writer.write(ask)
            await asyncio.sleep(20)
        writer.close()

    await target.everywhere(100, never_read)


@attack("http-key-at-full-rate", "one trader's key that places and cancels orders at every node as fast as it is answered")
async def key_at_full_rate(target: Target) -> None:
    answers: Counter[int] = Counter()
    person = target.people[0]
    body = {"product_id": "BTC-USD", "side": "buy", "price": "1", "size": "1", "time_in_force": "IOC"}
    async with target.http() as session:

        async def place(node_id: str) -> None:
            headers, data = signed(person, "POST", "/orders", body)
            async with session.post(f"{target.https[node_id]}/orders", data=data, headers=headers) as response:
                answers[response.status] += 1
                await response.read()

        with target.report("answers", answers):
            await target.everywhere(20, place, pause=0.0)
