"""`top`: nodes and products, live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from node.cli import session
from node.cli.output import print_json, show, table
from node.cli.session import Scales
from node.cli.target import Target, cluster_option, json_option
from node.cluster_directory import Access
from node.deployment.statuses import ask_all
from node.diagnosis.rates import Moment, NodeRates, ProductMoment, ProductRates, node_rates, product_rates
from node.errors import ConnectionLost, RequestFailed
from node.native.client import ClusterClient
from node.native.protocol import BookQuery, CurrenciesQuery, ProductsQuery

PRODUCTS_MAX = 20
"""Products whose books are asked for at a time: the first of the list, or those that are named."""

NODE_COLUMNS = (
    "node",
    "role",
    "applied",
    "lag",
    "commands/s",
    "entries/s",
    "queued",
    "fsync",
    "commit",
    "apply",
    "request",
    "disk free",
)
PRODUCT_COLUMNS = ("product", "status", "last", "bid", "ask", "trades", "trades/s", "events/s")


@click.command()
@cluster_option
@click.option("--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--product", "products", multiple=True, metavar="PRODUCT", help="Only this product; may be given several times.")
@click.option("--count", type=click.IntRange(1), help="Show so many looks, one below the other, and end.")
@json_option
def top(target: Target, interval: float, products: tuple[str, ...], count: int | None, as_json: bool) -> None:
    """Show nodes and products live, until Ctrl-C. Durations are 99th percentiles of the last interval.

    fsync: making the log durable. commit: from proposing a log entry to a majority having it. apply: one log entry.
        request: from the arrival of
    commands at the leader's engine to the answer.
    """
    asyncio.run(_watch(target, interval, products, 1 if as_json and count is None else count, as_json))


async def _watch(target: Target, interval: float, products: Sequence[str], count: int | None, as_json: bool) -> None:
    access = session.reach(target)
    client = session.open_client(target)
    try:
        before, _ = await _look(access, client, products)
        if count is not None:
            for _ in range(count):
                await asyncio.sleep(interval)
                after, scales = await _look(access, client, products)
                if as_json:
                    print_json({"nodes": node_rates(before, after), "products": product_rates(before, after)})
                else:
                    show(_view(before, after, scales))
                before = after
            return
        with Live(auto_refresh=False, screen=True) as live:
            while True:
                await asyncio.sleep(interval)
                after, scales = await _look(access, client, products)
                live.update(_view(before, after, scales), refresh=True)
                before = after
    finally:
        await client.close()


async def _look(access: Access, client: ClusterClient, wanted: Sequence[str]) -> tuple[Moment, Scales | None]:
    """What everybody says now; no products while no node answers for them."""
    statuses = await ask_all(access.addresses, access.tls(), access.credentials)
    found: dict[str, ProductMoment] = {}
    scales = None
    try:
        async with asyncio.timeout(2.0):
            rows = {row.product_id: row for row in await client.query(ProductsQuery())}
            scales = Scales({row.currency: row.scale for row in await client.query(CurrenciesQuery())}, rows)
            for product_id in list(wanted or rows)[:PRODUCTS_MAX]:
                scales.product(product_id)
                found[product_id] = ProductMoment(rows[product_id], await client.query(BookQuery(product_id, 1)))
    except (ConnectionLost, RequestFailed, TimeoutError):
        pass
    return Moment(time.monotonic(), statuses, found), scales


def _view(before: Moment, after: Moment, scales: Scales | None) -> Group:
    answering = {each.node_id: each for each in node_rates(before, after)}
    nodes = [_node_row(answering[node_id]) if node_id in answering else _silent(node_id) for node_id in after.statuses]
    shown = [table(NODE_COLUMNS, nodes, right=NODE_COLUMNS[2:])]
    if scales is not None and after.products:
        rows = [_product_row(each, scales) for each in product_rates(before, after)]
        shown.append(table(PRODUCT_COLUMNS, rows, right=PRODUCT_COLUMNS[2:]))
    return Group(*shown)


def _silent(node_id: str) -> list[str | Text]:
    return [node_id, Text("does not answer", style="bold red"), *[""] * (len(NODE_COLUMNS) - 2)]


def _node_row(each: NodeRates) -> list[str | Text]:
    style = "bold green" if each.role == "leader" else "red" if each.role == "candidate" else ""
    return [
        each.node_id,
        Text(each.role if each.ready else f"{each.role}, not ready", style=style if each.ready else "yellow"),
        f"{each.applied:,}",
        "" if each.lag is None else f"{each.lag:,}",
        f"{each.commands_s:,.0f}",
        f"{each.entries_s:,.0f}",
        f"{each.queued:,}",
        *(_milliseconds(seconds) for seconds in (each.fsync_p99_s, each.commit_p99_s, each.apply_p99_s, each.request_p99_s)),
        "" if each.disk_free_percent is None else f"{each.disk_free_percent:.0f} %",
    ]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:g} ms"


def _product_row(each: ProductRates, scales: Scales) -> list[str | Text]:
    prices = [scales.price(each.product_id, units) if units else "" for units in (each.last_price, each.bid, each.ask)]
    return [each.product_id, each.status, *prices, f"{each.trades:,}", f"{each.trades_s:,.1f}", f"{each.events_s:,.1f}"]
