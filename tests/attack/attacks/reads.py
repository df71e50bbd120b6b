"""Reads that cost the engine much, and readers that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter

from node.errors import ConnectionLost, RequestFailed
from node.native.connection import NativeConnection
from node.native.protocol import AnyQuery, BookQuery, OrdersQuery, Query, Subscribe, TradesQuery, frame
from statemachine.commands import PlaceOrder
from statemachine.events import Rejected
from statemachine.types import OrderType, Reason, Side, TimeInForce
from tests.attack.registry import attack
from tests.attack.target import Target

PRODUCT = "BTC-USD"
TICK = 10**6
"""A cent."""
ORDERS_EACH = 10_000
CHUNK = 500
FULL = Reason.TOO_MANY_OPEN_ORDERS
"""The answer to an account that has its orders from an earlier attack."""
SESSIONS = 8


def order(target: Target, number: int, ticks: int, time_in_force: TimeInForce = TimeInForce.GTC) -> PlaceOrder:
    """Return a small order to buy, far below the market."""
    account_id = target.people[number].account_id
    terms = (PRODUCT, Side.BUY, OrderType.LIMIT, ticks * TICK, 100_000)
    return PlaceOrder(account_id, target.command_id(), *terms, time_in_force=time_in_force)


async def many_orders(target: Target) -> None:
    """Resting orders of all the attacker's accounts, sent in the name of the operator, whom no rate holds back."""
    client = target.access.client()
    try:
        for number, start in itertools.product(range(len(target.people)), range(0, ORDERS_EACH, CHUNK)):
            places = range(start, min(start + CHUNK, ORDERS_EACH))
            outcomes = await client.submit([order(target, number, 100 + place % 400) for place in places])
            refused = [outcome for outcome in outcomes if isinstance(outcome, Rejected) and outcome.reason is not FULL]
            assert not refused, refused[0]
    finally:
        await client.close()


async def ask(
    target: Target, node_id: str, query: AnyQuery, counts: Counter[str], *, linearizable: bool = False, at_once: int = 1
) -> None:
    """Send the same query again and again on one session."""

    async def again(connection: NativeConnection) -> None:
        while True:
            try:
                await connection._query(query, linearizable)
                counts["answered"] += 1
            except RequestFailed as error:
                counts[error.code.name] += 1

    while True:
        try:
            connection = await target.connect(node_id)
            await asyncio.gather(*(again(connection) for _ in range(at_once)))
        except (ConnectionLost, RequestFailed, OSError) as error:
            counts[type(error).__name__] += 1
            await asyncio.sleep(0.1)


@attack(
    "large-book",
    "level 3 of a book of 120,000 orders, which moves all the time, asked of every node by one key",
    prepare=many_orders,
)
async def large_book(target: Target) -> None:
    counts: Counter[str] = Counter()

    async def touch() -> None:
        client = target.access.trader_client(target.people[1])
        while True:
            with contextlib.suppress(RequestFailed, ConnectionLost):
                await client.submit([order(target, 1, 100, TimeInForce.IOC)])
            await asyncio.sleep(0.02)

    asking = [ask(target, node_id, BookQuery(PRODUCT, 3), counts) for node_id in target.natives for _ in range(SESSIONS)]
    with target.report("books", counts):
        await asyncio.gather(touch(), *asking)


@attack(
    "order-lists", "lists of 10,000 open orders that match nothing, by 8 sessions of one key on every node", prepare=many_orders
)
async def order_lists(target: Target) -> None:
    counts: Counter[str] = Counter()
    query = OrdersQuery(target.people[0].account_id, limit=1, holds="EUR")
    with target.report("lists", counts):
        await asyncio.gather(*(ask(target, node_id, query, counts) for node_id in target.natives for _ in range(SESSIONS)))


@attack("linearizable-lists", "long lists behind barriers, 60 under way on each of 8 sessions at the leader", prepare=many_orders)
async def linearizable_lists(target: Target) -> None:
    counts: Counter[str] = Counter()
    leader = await target.leader()
    query = OrdersQuery(target.people[0].account_id, limit=1_000)
    with target.report("lists", counts):
        await asyncio.gather(*(ask(target, leader, query, counts, linearizable=True, at_once=60) for _ in range(SESSIONS)))


@attack("linearizable-without-a-key", "reads with consistency=linearizable over HTTP, without a key, from 16 lines to every node")
async def linearizable_without_a_key(target: Target) -> None:
    counts: Counter[str] = Counter()

    async def read(url: str) -> None:
        while True:
            try:
                async with session.get(f"{url}/products/{PRODUCT}/book?consistency=linearizable") as response:
                    await response.read()
                    counts[str(response.status)] += 1
            except OSError as error:
                counts[type(error).__name__] += 1
                await asyncio.sleep(0.05)

    async with target.http() as session:
        with target.report("reads", counts):
            await asyncio.gather(*(read(url) for url in target.https.values() for _ in range(16)))


@attack(
    "unread-answers",
    "30 sessions on every node that ask for trades, books and events again and again, and never read",
    prepare=many_orders,
)
async def unread_answers(target: Target) -> None:
    async def greedy(node_id: str) -> None:
        _, writer = await target.session(node_id)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport, too
        writer.write(frame(Subscribe(1, PRODUCT, 1)))
        for number in itertools.count(2):
            query: AnyQuery = TradesQuery(PRODUCT, 1_000) if number % 50 else BookQuery(PRODUCT, 3)
            writer.write(frame(Query(number, query)))
            await writer.drain()

    await target.everywhere(30, greedy, pause=0.5)


@attack(
    "resumed-feeds",
    "30 sessions on every node that read a product's events from the first kept one, again and again",
    prepare=many_orders,
)
async def resumed_feeds(target: Target) -> None:
    received = 0

    async def resume(node_id: str) -> None:
        nonlocal received
        reader, writer = await target.session(node_id)
        for number in itertools.count(1):
            writer.write(frame(Subscribe(number, PRODUCT, 1)))
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                data = await reader.read(1 << 18)
                if not data:
                    raise ConnectionError("closed")
                received += len(data)

    try:
        await target.everywhere(30, resume, pause=0.2)
    finally:
        target.say(f"{received // 1_000_000} MB of events")
