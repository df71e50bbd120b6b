"""`python -m loadtest.compare`: measure all rows in turns, print the table, and keep its history."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from loadtest.compare import wrk
from loadtest.compare.cluster import LoadedCluster, cpu_seconds
from loadtest.compare.etcd import Etcd, put_requests
from loadtest.compare.growth import growth
from loadtest.compare.openloop import OpenLoad, OpenLoop
from loadtest.compare.requests import http_orders
from loadtest.compare.rows import Row, as_json, figure, goal_of, markdown, row
from loadtest.errors import LoadTestError

CONNECTIONS = 64
HTTP_RATE_MAX = 20_000
"""Orders a second that are signed beforehand for a load by wrk; more than two cores answer."""

IDLE_SECONDS = 10.0
"""Seconds of the measurement without clients."""

NEVER = 10**9
"""Commands between snapshots: so many that no snapshot is taken during a measurement."""


class ComparePlan(msgspec.Struct, frozen=True):
    """The durations, sizes and numbers of rounds of the measurements."""

    rounds: int
    seconds: float
    growth_orders: int
    loading_orders: int
    growth_commands: int
    overload_seconds: float
    five_nodes: bool
    core: bool


FULL = ComparePlan(3, 8.0, 1_000_000, 1_000_000, 50_000, 60.0, True, True)
QUICK = ComparePlan(1, 3.0, 50_000, 300_000, 10_000, 10.0, False, True)


async def compare(directory: Path, plan: ComparePlan, overload_seconds: float, only: frozenset[str]) -> list[Row]:
    """Measure all rows, or those of the groups in `only`: core, cluster, growth, overload."""
    rows: list[Row] = []
    if not only or "cluster" in only:
        rows += await _cluster_rows(directory, plan, overload_seconds, overload=not only or "overload" in only)
    if plan.core and (not only or "core" in only):
        rows += await asyncio.to_thread(_core_rows)
        rows += await asyncio.to_thread(_loading_row, plan)
    if not only or "growth" in only:
        rows += await asyncio.to_thread(_growth_rows, plan)
    return rows


async def _cluster_rows(directory: Path, plan: ComparePlan, overload_seconds: float, *, overload: bool) -> list[Row]:
    """Measure three nodes beside three etcd members. All clusters run, and one after the other is under load. A second
    etcd, whose members encrypt, appears in notes.
    """
    bench = await LoadedCluster.start(directory / "cluster", **{"snapshot.every_commands": NEVER, "snapshot.every_bytes": NEVER})
    try:
        with Etcd(directory / "etcd") as etcd:
            with Etcd(directory / "etcd-tls", peer_tls=True) as encrypting:
                rows = await _in_turns(directory, plan, bench, etcd, encrypting)
            rows.append(await _idle(bench, etcd))
        peak = next(each.ours for each in rows if each.goal.key == "http_rate")
        rows.append(await _half_peak(bench, peak, plan))
        if overload:
            rows.append(await _overload(bench, peak, overload_seconds))
        rows.append(await _replay(bench))
    finally:
        await bench.stop()
    if plan.five_nodes:
        three = next(each.ours for each in rows if each.goal.key == "native_cpu")
        rows.append(await _five_nodes(directory, plan, three))
    return rows


async def _in_turns(directory: Path, plan: ComparePlan, bench: LoadedCluster, etcd: Etcd, encrypting: Etcd) -> list[Row]:
    """Load the clusters in turns. Returns the rows of the table."""
    pairs: dict[str, list[tuple[float, float]]] = {
        key: [] for key in ("http_rate", "http_p50", "native_rate", "http_cpu", "native_cpu")
    }
    encrypted: dict[str, list[float]] = {"http_rate": [], "http_p50": [], "http_cpu": []}
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}")
        puts, put_cpu = await _put(directory, etcd, plan.seconds, CONNECTIONS)
        before = bench.cpu()
        orders = await bench.http(
            directory, f"h{number}", connections=CONNECTIONS, seconds=plan.seconds, count=int(HTTP_RATE_MAX * plan.seconds)
        )
        order_cpu = (bench.cpu() - before) / orders.answers * 1e6
        put_alone, _ = await _put(directory, etcd, plan.seconds / 2, 1)
        order_alone = await bench.http(
            directory, f"s{number}", connections=1, seconds=plan.seconds / 2, count=int(2_000 * plan.seconds)
        )
        before = bench.cpu()
        native = await bench.native(f"n{number}", seconds=plan.seconds)
        native_cpu = (bench.cpu() - before) / native.commands * 1e6
        tls_puts, tls_cpu = await _put(directory, encrypting, plan.seconds, CONNECTIONS)
        tls_alone, _ = await _put(directory, encrypting, plan.seconds / 2, 1)
        pairs["http_rate"].append((orders.rate, puts.rate))
        pairs["http_p50"].append((order_alone.p50 * 1e3, put_alone.p50 * 1e3))
        pairs["native_rate"].append((native.rate, puts.rate))
        pairs["http_cpu"].append((order_cpu, put_cpu))
        pairs["native_cpu"].append((native_cpu, put_cpu))
        encrypted["http_rate"].append(tls_puts.rate)
        encrypted["http_p50"].append(tls_alone.p50 * 1e3)
        encrypted["http_cpu"].append(tls_cpu)
        say(
            f"  etcd {puts.rate:,.0f}/s ({tls_puts.rate:,.0f}/s with TLS between its members), "
            f"HTTP {orders.rate:,.0f}/s (p99 {orders.p99 * 1e3:.1f} ms), native {native.rate:,.0f}/s, "
            f"alone {order_alone.p50 * 1e3:.2f} ms beside {put_alone.p50 * 1e3:.2f} ms"
        )
    notes = {
        key: f"etcd with TLS between its members: {figure(statistics.median(measured))} {goal_of(key).unit}"
        for key, measured in encrypted.items()
    }
    return [row(key, measured, notes.get(key, "")) for key, measured in pairs.items()]


async def _put(directory: Path, etcd: Etcd, seconds: float, connections: int) -> tuple[wrk.Load, float]:
    """Measure a load of puts. Returns the load, and the CPU microseconds of all members for each put."""
    url = etcd.leader_url()
    requests = directory / "puts"
    count = int(HTTP_RATE_MAX * seconds) if connections > 1 else int(4_000 * seconds)
    await asyncio.to_thread(wrk.store, put_requests(count, url.partition("://")[2]), requests, wrk.threads_for(connections))
    before = cpu_seconds(etcd.pids)
    load = await asyncio.to_thread(wrk.run, f"{url}/v3/kv/put", requests, connections=connections, seconds=seconds)
    return load, (cpu_seconds(etcd.pids) - before) / load.answers * 1e6


async def _idle(bench: LoadedCluster, etcd: Etcd) -> Row:
    """Measure the CPU of a node without clients, in per cent of a core: the mean of the three nodes. Beside it that of an
    etcd member in the same seconds.
    """
    say("idle")
    await asyncio.sleep(2.0)
    before, etcd_before, begin = bench.cpu(), cpu_seconds(etcd.pids), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    seconds = time.perf_counter() - begin
    share = (bench.cpu() - before) / seconds / 3 * 100
    member = (cpu_seconds(etcd.pids) - etcd_before) / seconds / len(etcd.pids) * 100
    return row("idle", [(share, 0.0)], f"an etcd member at the same time: {figure(member)} % of a core")


async def _half_peak(bench: LoadedCluster, peak: float, plan: ComparePlan) -> Row:
    say("open loop at half of the peak")
    load = await _open(bench, "half", peak / 2, plan.seconds, CONNECTIONS)
    note = f"p50 {load.p50 * 1e3:.1f}, p99.9 {load.p999 * 1e3:.1f} ms at {peak / 2:,.0f}/s"
    return row("half_peak_p99", [(load.p99 * 1e3, 0.0)], note)


async def _overload(bench: LoadedCluster, peak: float, seconds: float) -> Row:
    """Offer three times the peak, in parts of ten seconds because a signature expires."""
    say(f"overload for {seconds:g} s")
    term, memory = await bench.term(), bench.memory()
    end = time.perf_counter() + seconds
    goodputs: list[float] = []
    while time.perf_counter() < end:
        load = await _open(bench, f"o{len(goodputs)}", 3 * peak, 10.0, 4 * CONNECTIONS, most_seconds=25.0)
        goodputs.append(load.goodput)
    elections = await bench.term() - term
    note = f"{elections} elections, memory {memory / 2**20:,.0f} -> {bench.memory() / 2**20:,.0f} MiB in {seconds:g} s"
    return row("overload", [(statistics.median(goodputs), peak)], note)


async def _open(
    bench: LoadedCluster, run: str, rate: float, seconds: float, connections: int, most_seconds: float = 0.0
) -> OpenLoad:
    """Send orders at a rate that no answer delays."""
    address = bench.access.https[await bench.leader()].partition("://")[2]
    requests = await asyncio.to_thread(lambda: list(http_orders(bench.people, run, bench.seed, int(rate * seconds), address)))
    return await OpenLoop(address, rate, connections).run(requests, most_seconds=most_seconds)


async def _replay(bench: LoadedCluster) -> Row:
    """Kill a follower and start it again. The CPU beyond that of a start with an empty log is scaled to a million
    commands in its log.
    """
    say("restart from the log")
    cluster = bench.ground.cluster
    leader = await bench.leader()
    follower = next(node_id for node_id in cluster.node_ids if node_id != leader)
    statuses = await cluster.status()
    status = statuses[leader]
    if status is None:
        raise LoadTestError("the leader does not answer")
    cluster.kill(follower)
    begin = time.perf_counter()
    cluster.start([follower])
    await cluster.wait_ready(120.0, [follower])
    took = time.perf_counter() - begin
    cpu = cpu_seconds(bench.pids_of(follower))
    commands = status.sequence
    note = (
        f"measured with {commands:,} commands: {cpu:.1f} s of CPU, of which {bench.start_cpu:.1f} s for the start of the "
        f"processes; ready after {took:.1f} s"
    )
    return row("replay", [(bench.start_cpu + (cpu - bench.start_cpu) / commands * 1e6, 0.0)], note)


async def _five_nodes(directory: Path, plan: ComparePlan, three: float) -> Row:
    """Measure the CPU time of a command on five nodes beside that on three."""
    say("five nodes")
    bench = await LoadedCluster.start(directory / "five", nodes=5)
    try:
        before = bench.cpu()
        native = await bench.native("five", seconds=plan.seconds)
        cpu = (bench.cpu() - before) / native.commands * 1e6
    finally:
        await bench.stop()
    return row("five_nodes", [(cpu, three)], f"{native.rate:,.0f} commands/s")


def _growth_rows(plan: ComparePlan) -> list[Row]:
    """Measure how the time of a command grows with resting orders and with products."""
    say("growth")
    by_orders = growth((1_000, plan.growth_orders), (4, 4), plan.growth_commands, plan.rounds)
    by_products = growth((10_000, 10_000), (1, 1_000), plan.growth_commands, plan.rounds)
    note = "" if plan.growth_orders == 1_000_000 else f"with {plan.growth_orders:,} resting orders only"
    return [row("book_growth", by_orders, note), row("product_growth", by_products)]


def _core_rows() -> list[Row]:
    """Measure the rows of `loadtest.core` in separate processes."""
    say("the engine in one process")
    ended = subprocess.run([sys.executable, "-m", "loadtest.core", "--json"], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LoadTestError(f"python -m loadtest.core failed: {ended.stderr.strip()[-400:]}")
    found: dict[str, list[tuple[float, float]]] = json.loads(ended.stdout)
    return [row(key, [(pair[0], pair[1]) for pair in rounds]) for key, rounds in found.items()]


def _loading_row(plan: ComparePlan) -> list[Row]:
    """Measure a start from a snapshot, scaled to a million orders."""
    say("restart from a snapshot")
    argv = [sys.executable, "-m", "tests.benchmarks.loading", "--orders", str(plan.loading_orders), "--times", "1"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"^\| all of it \| ([\d.]+) \| ([\d.]+) \|$", ended.stdout, re.MULTILINE)
    if found is None:
        raise LoadTestError(f"the benchmark of loading failed: {ended.stderr.strip()[-400:]}")
    scale = 1_000_000 / plan.loading_orders
    note = "" if scale == 1 else f"scaled from {plan.loading_orders:,} orders"
    return [row("load", [(float(found[2]) * scale, 0.0)], note)]


def context() -> dict[str, str]:
    """Return date, commit and machine, for the history."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit or "unknown",
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}",
    }


def record(path: Path, rows: list[Row], about: dict[str, str]) -> None:
    """Append the run to the history of each row in a Markdown file."""
    head = f"\n### {about['date']}, commit {about['commit']}, {about['machine']}\n\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(head + markdown(rows) + "\n")


def say(text: str) -> None:
    """Print the progress of the measurement."""
    click.echo(text, err=True)


@click.command()
@click.option("--quick", is_flag=True, help="One short round of everything; the figures are rough.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["cluster", "core", "growth", "overload"]),
    help="Measure only this group of rows; may repeat.",
)
@click.option(
    "--overload-seconds", type=float, help="Seconds for which three times the peak is offered (600 for the documented run)."
)
@click.option("--json", "as_json_text", is_flag=True, help="For a script.")
@click.option("--record", "record_path", type=click.Path(path_type=Path), help="Append the table to the history in this file.")
def main(
    quick: bool, only: tuple[str, ...], overload_seconds: float | None, as_json_text: bool, record_path: Path | None
) -> None:
    """Measure Quorumbook beside etcd, matching-engine and a plain price-time book, in turns."""
    plan = QUICK if quick else FULL
    about = context()
    with tempfile.TemporaryDirectory(prefix="quorumbook-compare-") as name:
        try:
            rows = asyncio.run(compare(Path(name), plan, overload_seconds or plan.overload_seconds, frozenset(only)))
        except LoadTestError as error:
            raise click.ClickException(str(error)) from error
    click.echo(as_json(rows, about).decode() if as_json_text else f"{about}\n\n{markdown(rows)}")
    if record_path is not None:
        record(record_path, rows, about)


if __name__ == "__main__":
    main()
