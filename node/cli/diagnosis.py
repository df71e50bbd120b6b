"""`doctor`, `check`, `bundle`, `top`, `bench`: questions of an operator (`node/diagnosis/`) and how answers are shown."""

from __future__ import annotations

import asyncio
import datetime
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from node.cli import session
from node.cli.output import ProgressBar, plain_console, print_json, progress, show, table
from node.cli.session import MarketScales
from node.cli.target import Finite, Target, cluster_option, json_option, place_option
from node.cluster_directory import Access, ClusterDirectory, noted_removed
from node.config.file import load
from node.deployment.statuses import Statuses, ask_all, asking
from node.diagnosis import bench as benchmark
from node.diagnosis.bench import ORDERS, PRODUCT, BenchRefusedError
from node.diagnosis.bundle import LOG_BYTES, Bundle
from node.diagnosis.doctor import Doctor
from node.diagnosis.findings import Finding, Severity, worst
from node.diagnosis.health import LIMITS, Thresholds, checks, examine, observe
from node.diagnosis.rates import Moment, NodeRates, ProductMoment, ProductRates, node_rates, product_rates
from node.errors import ConfigError, ConnectionLost, DirectoryError, RequestFailed
from node.native.client import ClusterClient
from node.native.protocol import BookQuery, CurrenciesQuery, ProductsQuery

Function = Callable[..., Any]
STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red", Severity.UNKNOWN: "magenta"}
STEPS = 10
"""Steps of a doctor for one node."""


@click.command()
@place_option
@click.option("--config", "path", type=click.Path(path_type=Path), help="Only the node of this node.toml.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may repeat.")
@click.option("--deep", is_flag=True, help="Also read every row of the snapshots, as a start does.")
@click.option("--all", "everything", is_flag=True, help="Also show checks that found nothing wrong.")
@json_option
def doctor(target: Target, path: Path | None, nodes: tuple[str, ...], deep: bool, everything: bool, as_json: bool) -> None:
    """Look for faults of the nodes on this machine, whether they run or not, and say what to do.

    Checks configuration, limits, versions, certificates, data directory, ports, other nodes, disk space, the speed of
    fsync, the clock, log and snapshots. Exit code: 0 no faults, 1 something needs attention, 2 a node cannot run, or
    not for long.
    """
    paths = [path] if path is not None else _paths(target.directory, nodes)
    findings: list[Finding] = []
    with progress("looking", STEPS * len(paths)) as shown:
        for each in paths:
            findings += _examine(each, deep, shown)
    level = worst(findings)
    if as_json:
        print_json({"level": level, "findings": findings})
    else:
        _show(findings, everything)
    raise click.exceptions.Exit(min(level, Severity.CRITICAL))


def _paths(directory: Path, nodes: tuple[str, ...]) -> list[Path]:
    """Return the configurations of the named nodes in a cluster's directory, by default of all that were not removed from the
    cluster. They are not read here, because one of them may be invalid.

    Raises:
        DirectoryError: there are none, or not those that were named.
    """
    found = {path.parent.name: path for path in sorted(directory.glob("*/node.toml"))}
    if not found:
        raise DirectoryError(f"{directory}: no node in it (expected {directory}/n1/node.toml); name a node.toml with --config")
    if unknown := [node for node in nodes if node not in found]:
        raise DirectoryError(f"no node {', '.join(unknown)} in {directory}; there are: {', '.join(found)}")
    removed = noted_removed(directory)
    return [found[node] for node in nodes] or [path for node, path in found.items() if node not in removed]


def _examine(path: Path, deep: bool, shown: ProgressBar) -> list[Finding]:
    """Return what the doctor finds on one node."""
    statuses: Statuses = {}
    name = path.resolve().parent.name
    try:
        config = load(path)
        name = config.node_id
        statuses = asyncio.run(asking(config)())
    except (ConfigError, OSError, RequestFailed):
        pass  # the doctor reports what is wrong with it
    return Doctor(path, status=statuses.get(name), deep=deep, report=lambda what: shown.step(f"{name}: {what}")).examine()


def _show(findings: list[Finding], everything: bool) -> None:
    """Print the findings that need action, or all of them, and how many checks passed."""
    bad = [finding for finding in findings if finding.level]
    rows: list[list[str | Text]] = [
        [finding.node_id, finding.check, Text(finding.level.name, style=STYLES[finding.level]), finding.text, finding.advice]
        for finding in (findings if everything else bad)
    ]
    if rows:
        show(table(("node", "check", "level", "found", "what to do"), rows))
    well = len(findings) - len(bad)
    click.echo(f"{well} of {len(findings)} checks found nothing wrong" if bad else f"all {well} checks found nothing wrong")


NAMES = list(checks())


def _unknown_on_error(function: Function) -> Function:
    """End with UNKNOWN if the cluster cannot be observed, also if a file of `--key` or `--ca` cannot be read."""

    @functools.wraps(function)
    def wrapper(**options: Any) -> Any:
        try:
            return function(**options)
        except (click.UsageError, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, a monitoring system must not take it for a warning
            click.echo(f"UNKNOWN - {error}")
            raise click.exceptions.Exit(Severity.UNKNOWN) from None

    return wrapper


def _thresholds_help() -> str:
    """Return the checks and their thresholds for `--help`."""
    lines = []
    for name, (limits, meaning) in LIMITS.items():
        side = "below" if limits.falling else "above"
        lines.append(f"{name}: {meaning}; warning {side} {limits.warning:g}, critical {side} {limits.critical:g}")
    return "\n".join(lines)


@click.command(
    epilog="\b\nThresholds:\n" + _thresholds_help(),
    help="""Check the health of the cluster: ask every node over the network, and run the named checks, or all.

    \b
    Checks: leader, nodes, states, lag, fsync, commit, disk, certificates, clock, history, snapshot.

    The output is one line with performance data, as Nagios plugins print it. Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also if no cluster
    or key is found).""",
)
@click.argument("names", metavar="[CHECK]...", type=click.Choice(NAMES), nargs=-1)
@click.option("--warning", type=Finite(), help="The threshold of the one CHECK that is named.")
@click.option("--critical", type=Finite(), help="The threshold of the one CHECK that is named.")
@click.option(
    "--interval",
    type=Finite(0, 60),
    default=1.0,
    show_default=True,
    help="Seconds over which durations are measured.",
)
@click.option("-v", "--verbose", is_flag=True, help="Print a line for each finding.")
@_unknown_on_error
@cluster_option
@json_option
def check(
    target: Target,
    names: tuple[str, ...],
    warning: float | None,
    critical: float | None,
    interval: float,
    verbose: bool,
    as_json: bool,
) -> None:
    chosen = list(dict.fromkeys(names)) or NAMES
    limits = _limits(chosen, warning, critical)
    access = session.reach(target)
    observation = asyncio.run(observe(access.addresses, access.tls(), access.credentials, interval))
    findings = examine(observation, chosen, limits)
    level = worst(findings)
    if as_json:
        print_json({"level": level, "findings": findings})
    else:
        click.echo(line(level, findings))
        for finding in findings if verbose else ():
            click.echo(f"{finding.level.name} {_about(finding)}{': ' + finding.advice if finding.advice else ''}")
    raise click.exceptions.Exit(level)


def _limits(chosen: list[str], warning: float | None, critical: float | None) -> dict[str, Thresholds]:
    """Return the thresholds: the given ones, and defaults for the rest."""
    thresholds = {name: limits for name, (limits, _) in LIMITS.items()}
    if warning is None and critical is None:
        return thresholds
    if len(chosen) != 1 or chosen[0] not in LIMITS:
        raise click.UsageError(f"--warning and --critical belong to one CHECK with a threshold: {', '.join(LIMITS)}.")
    usual = thresholds[chosen[0]]
    chosen_limits = Thresholds(
        usual.warning if warning is None else warning, usual.critical if critical is None else critical, usual.falling
    )
    if (
        (chosen_limits.warning < chosen_limits.critical)
        if chosen_limits.falling
        else (chosen_limits.warning > chosen_limits.critical)
    ):
        order = "at most" if chosen_limits.falling else "at least"
        raise click.UsageError(
            f"--critical: expected {order} the warning's {chosen_limits.warning:g}, not {chosen_limits.critical:g}."
        )
    return {**thresholds, chosen[0]: chosen_limits}


def line(level: Severity, findings: list[Finding]) -> str:
    """Return one line for Nagios: the level, the faults or else the checks that passed, and the figures."""
    bad = [finding for finding in findings if finding.level]
    text = "; ".join(_about(finding) for finding in sorted(bad, key=lambda finding: -finding.level))
    if not bad:
        text = _about(findings[0]) if len(findings) == 1 else f"{len(findings)} findings, nothing wrong"
    figures = " ".join(
        f"'{'_'.join(filter(None, (finding.check, finding.node_id, name)))}'={value:g}"
        for finding in findings
        for name, value in finding.figures.items()
    )
    return f"{level.name} - {text.replace('|', '/')}" + (f" | {figures}" if figures else "")


def _about(finding: Finding) -> str:
    """Return a finding as one line."""
    return " ".join(filter(None, (finding.check, f"of {finding.node_id}:" if finding.node_id else "-", finding.text)))


MIB = 1024 * 1024


@click.command()
@cluster_option
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The archive. [default: quorumbook-bundle-TIME.tar.gz]"
)
@click.option(
    "--log-mib",
    type=click.IntRange(1, 1024),
    default=LOG_BYTES // MIB,
    show_default=True,
    help="MiB from the end of each node's log.",
)
@json_option
def bundle(target: Target, output: Path | None, log_mib: int, as_json: bool) -> None:
    """Collect the status, settings and logs of all nodes into one archive, without secrets, with a list of its
    contents.

    For every node: status and metrics. For nodes on this machine also: settings, the end of the log, stacks of the
    processes, the system's information on them, names and sizes of files, and the doctor's findings. Nodes that are
    down are skipped.
    """
    access = session.reach(target)
    layout = None if target.is_remote else ClusterDirectory(target.directory)
    now = datetime.datetime.now(datetime.UTC)
    path = output or Path(f"quorumbook-bundle-{now:%Y%m%dT%H%M%SZ}.tar.gz")
    if path.exists():
        raise click.ClickException(f"{path} exists already; name another file with --output")
    with progress("collecting", None) as bar:
        archive = Bundle(access.addresses, access.tls(), access.credentials, layout, report=bar.step, log_bytes=log_mib * MIB)
        asyncio.run(archive.collect())
        manifest = archive.write(path, now)
    missing = [entry for entry in manifest.files if entry.missing]
    if as_json:
        print_json({"path": str(path), "manifest": manifest})
        return
    click.echo(f"{path}: {len(manifest.files) - len(missing)} files, {path.stat().st_size / MIB:.1f} MiB")
    for entry in missing:
        click.echo(f"not in it: {entry.name}: {entry.missing}")
    click.echo(f"Left out: {manifest.left_out}. Look through it before you give it away: manifest.json lists the files.")


PRODUCTS_MAX = 20
"""Products in the view: the named ones, or the first of the list."""

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
@click.option("--interval", type=Finite(0.1, 60), default=1.0, show_default=True, help="Seconds between two refreshes.")
@click.option("--product", "products", multiple=True, metavar="PRODUCT", help="Only this product; may repeat.")
@click.option("--count", type=click.IntRange(1), help="Print this many refreshes below each other, and end.")
@json_option
def top(target: Target, interval: float, products: tuple[str, ...], count: int | None, as_json: bool) -> None:
    """Show nodes and products live, until Ctrl-C. Durations are 99th percentiles of the last interval.

    fsync: making the log durable. commit: from proposing a log entry until a majority has it. apply: applying one log
    entry. request: from the arrival of commands at the leader's engine until the answer.
    """
    asyncio.run(_watch(target, interval, products, 1 if as_json and count is None else count, as_json))


async def _watch(target: Target, interval: float, products: Sequence[str], count: int | None, as_json: bool) -> None:
    """Show the rates at each interval, `count` times or for ever."""
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
        with Live(console=plain_console(), auto_refresh=False, screen=True) as live:
            while True:
                await asyncio.sleep(interval)
                after, scales = await _look(access, client, products)
                live.update(_view(before, after, scales), refresh=True)
                before = after
    finally:
        await client.close()


async def _look(access: Access, client: ClusterClient, wanted: Sequence[str]) -> tuple[Moment, MarketScales | None]:
    """Ask all nodes. There are no products while no node answers for them."""
    statuses = await ask_all(access.addresses, access.tls(), access.credentials)
    found: dict[str, ProductMoment] = {}
    scales = None
    try:
        async with asyncio.timeout(2.0):
            rows = {row.product_id: row for row in await client.query(ProductsQuery())}
            scales = MarketScales({row.currency: row.scale for row in await client.query(CurrenciesQuery())}, rows)
            for product_id in list(wanted or rows)[:PRODUCTS_MAX]:
                scales.product(product_id)
                found[product_id] = ProductMoment(rows[product_id], await client.query(BookQuery(product_id, 1)))
    except (ConnectionLost, RequestFailed, TimeoutError):
        pass
    return Moment(time.monotonic(), statuses, found), scales


def _view(before: Moment, after: Moment, scales: MarketScales | None) -> Group:
    """Return the tables of nodes and products."""
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
    """Return the row of a node."""
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


def _product_row(each: ProductRates, scales: MarketScales) -> list[str | Text]:
    prices = [scales.price(each.product_id, units) if units else "" for units in (each.last_price, each.bid, each.ask)]
    return [each.product_id, each.status, *prices, f"{each.trades:,}", f"{each.trades_s:,.1f}", f"{each.events_s:,.1f}"]


@click.command()
@cluster_option
@click.option("--seconds", type=Finite(0.5, 600), default=5.0, show_default=True, help="How long each of the two phases takes.")
@json_option
def bench(target: Target, seconds: float, as_json: bool) -> None:
    """Measure the cluster as it is: orders a second, and the 99th percentile of the latency of one order.

    Trades on a product and with accounts of its own, which stay; the product is closed at the end. Other clients of the
    cluster notice the load. Needs the operator's key.
    """
    access = session.reach(target)
    with progress("setting up", 2 * seconds) as bar:

        def report(phase: str, elapsed_s: float) -> None:
            bar.step(phase, 0)
            bar.at(elapsed_s + (seconds if phase.startswith("many") else 0.0))

        try:
            result = asyncio.run(benchmark.run(access, seconds, report))
        except BenchRefusedError as error:
            raise click.ClickException(f"the exchange rejects what the benchmark needs: {error}") from error
    if as_json:
        print_json(result)
        return
    click.echo(f"{result.orders_s:,.0f} orders a second")
    click.echo(f"{1000 * result.latency_p99_s:.1f} ms p99 of one order, until it is durable on a majority and applied")
    loaded = f"under load p99 {1000 * result.loaded_p99_s:.0f} ms for a request of {ORDERS} orders"
    click.echo(f"  p50 {1000 * result.latency_p50_s:.1f} ms; {loaded}")
    traded = f"{100 * result.trades_share:.0f} % traded at once"
    click.echo(f"  {result.orders:,} orders in {result.seconds:.1f} s, {traded}; {result.nodes} nodes, product {PRODUCT}")
