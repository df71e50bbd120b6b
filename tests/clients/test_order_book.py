"""cbpro's OrderBook, which was written by others, judges price-time priority: it follows a flow of orders through an
auction and the death of the leader.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from typing import Any

import pytest

from loadtest.flow import ClientFlow
from loadtest.watch import none_leaving
from node.gateway.values import order_text
from node.native.products import put_again
from node.native.protocol import BookQuery, BookView, ProductsQuery, TradesQuery
from statemachine.decimals import to_text
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus
from tests.clients import packages
from tests.clients.packages import CBPRO
from tests.clients.script import Script
from tests.clients.stage import FLOW_PRODUCT, SECONDS, SEED, Stage
from tests.clients.table import Table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

CHUNKS, CHUNK = 60, 10
"""Requests of each client of the flow, and commands in each."""


def test_the_order_book_of_cbpro_equals_the_engines(stage: Stage, table: Table) -> None:
    python = packages.python(CBPRO)
    result, matches = asyncio.run(follow(stage, python))
    table.add("cbpro", CBPRO.version, f"OrderBook through {matches} matches and an auction while the leader is killed", result)
    assert result == "works"


async def follow(stage: Stage, python: str) -> tuple[str, int]:
    """Start the book at a node that is not killed, send orders, hold an auction, kill the leader during it, and
    compare. Returns the result and the number of matches.
    """
    given = await stage.given("cbpro", 0) | {"product": FLOW_PRODUCT.product_id}
    leader = await stage.leader()
    script = await Script.start(python, "-m", "tests.clients.foreign.cbpro_book", given=given)
    try:
        ready = asyncio.create_task(script.until("ready"))
        first = asyncio.create_task(flow(stage, "flow-1", CHUNKS))
        await ready
        await first
        await put_status(stage, ProductStatus.AUCTION)
        await asyncio.gather(*(flow(stage, name, CHUNKS // 4, "auction") for name in ("flow-1", "flow-2", "flow-3")))
        await put_status(stage, ProductStatus.ONLINE)
        others = [asyncio.create_task(flow(stage, name, CHUNKS)) for name in ("flow-2", "flow-3")]
        await asyncio.to_thread(stage.ground.cluster.kill, leader, signal.SIGKILL)
        await asyncio.gather(*others)
        view = await book(stage, [stage.people[name].account_id for name in ("flow-1", "flow-2", "flow-3")])
        assert script.process.stdin is not None
        script.process.stdin.write(f"{view.product_sequence}\n".encode())
        answer = await script.until("book")
    finally:
        await script.end()
        await stage.bring_back(leader)
    assert answer["sequence"] == view.product_sequence, script.results()["OrderBook"]
    assert levels(answer["book"]) == expected(view)
    return script.results()["OrderBook"], answer["matches"]


async def put_status(stage: Stage, status: ProductStatus) -> None:
    """Change the status of the flow's product."""
    client = stage.access.client()
    try:
        rows: list[ProductRow] = await client.query(ProductsQuery(), True)
        (row,) = (row for row in rows if row.product_id == FLOW_PRODUCT.product_id)
        await client.submit([put_again(row, f"session:{status.name}", status=status)])
        given = await client.query(TradesQuery(FLOW_PRODUCT.product_id, 1_000), True)
    finally:
        await client.close()
    assert status is ProductStatus.AUCTION or any(trade.auction for trade in given), "the auction traded"


async def flow(stage: Stage, name: str, chunks: int, run: str = "book") -> None:
    """Send a client's flow of orders on one product by the native protocol."""
    client = stage.access.trader_client(stage.people[name], deadline=30.0)
    commands = ClientFlow(SEED, stage.people[name].account_id, f"{run}-{name}", [FLOW_PRODUCT])
    try:
        for _ in range(chunks):
            await client.submit(list(itertools.islice(commands, CHUNK)))
    finally:
        await client.close()


async def book(stage: Stage, account_ids: list[str]) -> BookView:
    """Return the whole book after a barrier, once no order of these accounts is due to leave it."""
    client = stage.access.client()
    try:
        await none_leaving(client, account_ids, SECONDS)
        return await client.query(BookQuery(FLOW_PRODUCT.product_id, 3), True)
    finally:
        await client.close()


def levels(found: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Return a side's orders, with numbers without trailing zeros."""
    return {side: sorted([plain(price), plain(size), order] for price, size, order in rows) for side, rows in found.items()}


def expected(view: BookView) -> dict[str, list[list[str]]]:
    """Return the same of our book."""
    sides = {"bids": view.bid_orders, "asks": view.ask_orders}
    return {
        side: sorted(
            [plain(to_text(order.price, 8)), plain(to_text(order.size, 8)), order_text(order.order_id)] for order in orders
        )
        for side, orders in sides.items()
    }


def plain(number: str) -> str:
    """Return a decimal without trailing zeros."""
    return number.rstrip("0").rstrip(".") if "." in number else number
