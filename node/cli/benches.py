"""`bench`: what a cluster does, as it stands."""

from __future__ import annotations

import asyncio

import click

from node.cli import session
from node.cli.output import print_json, progress
from node.cli.target import Target, cluster_option, json_option
from node.diagnosis import bench as benchmark
from node.diagnosis.bench import ORDERS, PRODUCT, Refused


@click.command()
@cluster_option
@click.option(
    "--seconds", type=click.FloatRange(0.5, 600), default=5.0, show_default=True, help="How long each of the two phases takes."
)
@json_option
def bench(target: Target, seconds: float, as_json: bool) -> None:
    """Measure the cluster as it stands: orders a second, and the 99th percentile of one order's way.

    Trades on a product and with accounts of its own, which stay; the product is closed at the end. Others on the same
    cluster notice the load. Needs the operator's key.
    """
    access = session.reach(target)
    with progress("setting up", 2 * seconds) as shown:

        def tell(what: str, over: float) -> None:
            shown.step(what, 0)
            shown.at(over + (seconds if what.startswith("many") else 0.0))

        try:
            found = asyncio.run(benchmark.run(access, seconds, tell))
        except Refused as error:
            raise click.ClickException(f"the exchange refuses what the benchmark needs: {error}") from error
    if as_json:
        print_json(found)
        return
    click.echo(f"{found.orders_s:,.0f} orders a second")
    click.echo(f"{1000 * found.latency_p99_s:.1f} ms p99 of one order, until it is durable on a majority and applied")
    loaded = f"under load p99 {1000 * found.loaded_p99_s:.0f} ms for a request of {ORDERS} orders"
    click.echo(f"  p50 {1000 * found.latency_p50_s:.1f} ms; {loaded}")
    traded = f"{100 * found.trades_share:.0f} % traded at once"
    click.echo(f"  {found.orders:,} orders in {found.seconds:.1f} s, {traded}; {found.nodes} nodes, product {PRODUCT}")
