"""`audit`, `export`, `import`, `replay`: what nodes have on disk, and recorded order flows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec
from rich.text import Text

from node.cli.output import print_json, progress, show, table
from node.cli.session import CliSession, run
from node.cli.target import Target, cluster_option, earlier_place, json_option, place_option
from node.cluster_directory import ClusterDirectory
from node.config.file import load
from node.deployment.local_cluster import LocalCluster
from node.errors import DirectoryError
from node.records.audit import AuditReport, audit_directory, audit_running
from node.records.backup import unusable_keys
from node.records.exporting import export_tables, import_tables, is_running, snapshot_now
from node.records.replay import ReplayPlan, ReplayReport
from node.records.replay import replay as replay_recording
from statemachine.engine import Engine

DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)


def node_config_path(directory: Path, node_id: str | None) -> Path:
    """Return the configuration of a node in a node's or a cluster's directory; by default the cluster's first node.

    Raises:
        DirectoryError: there is no such node.
    """
    if (directory / "node.toml").exists():
        return directory / "node.toml"
    paths = {path.parent.name: path for path in sorted(directory.glob("*/node.toml"))}
    if not paths:
        raise DirectoryError(f"{directory}: neither a node's nor a cluster's directory (there is no node.toml)")
    if node_id is None:
        return next(iter(paths.values()))
    if node_id not in paths:
        raise DirectoryError(f"{directory}: no node {node_id!r}; there are: {', '.join(paths)}")
    return paths[node_id]


@click.command()
@place_option
@earlier_place()
@click.option(
    "--acks",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The outcomes that clients received, as JSON lines.",
)
@click.option("--offline", is_flag=True, help="Do not ask the nodes for their state hashes.")
@json_option
def audit(target: Target, acks: Path | None, offline: bool, as_json: bool) -> None:
    """Read the nodes' logs, apply every command again, and compare with what clients and nodes report.

    Exit code 1 on any difference. Nodes that are down are audited by their logs alone. Needs raft.archive_log = true.
    """
    directory = target.directory
    local = LocalCluster(directory)
    running = [] if offline else local.running()
    statuses = (
        {node_id: status for node_id, status in asyncio.run(local.status()).items() if node_id in running} if running else None
    )
    with progress("the logs are read and every command is applied again", None) as shown:
        report = (audit_running if running else audit_directory)(directory, acks, statuses, shown.at)
    if as_json:
        print_json({**msgspec.structs.asdict(report), "holds": report.holds})
    else:
        _show(report)
    if not report.holds:
        raise click.exceptions.Exit(1)


def _show(report: AuditReport) -> None:
    """Print the checks of an audit."""
    rows: list[list[str | Text]] = [
        [Text("holds", style="green") if check.holds else Text("FAILS", style="bold red"), check.claim, check.detail]
        for check in report.checks
    ]
    title = f"{report.commands:,} commands up to index {report.commit_index:,}, sequence {report.sequence:,}"
    show(table(("", "claim", "checked"), rows, title=title))


@click.command("export")
@click.argument("destination", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@place_option
@earlier_place("--from", "--from")
@click.option("--node", "node_id", help="The node whose state to export. Default: the first.")
@json_option
def export_state(destination: Path, target: Target, node_id: str | None, as_json: bool) -> None:
    """Write the whole state of a node into DIR, a TSV file for each table. It contains the secrets of API keys,
    encrypted.

    A running node takes a snapshot for it, so that all tables are of one index. For a stopped node its newest snapshot
    is used.
    """
    config = load(node_config_path(target.directory, node_id))
    running = is_running(config)
    with progress(f"{config.node_id} takes a snapshot" if running else f"{config.node_id}: its newest snapshot") as shown:
        if running:
            asyncio.run(snapshot_now(config))
        manifest, rows = export_tables(config, destination, shown.stage)
    if as_json:
        print_json({"node_id": config.node_id, "index": manifest.index, "sequence": manifest.sequence, "rows": rows})
        return
    click.echo(
        f"{config.node_id} at index {manifest.index:,}, sequence {manifest.sequence:,}, hash {manifest.full_hash.hex()[:16]}"
    )
    click.echo(", ".join(f"{name} {count:,}" for name, count in rows.items()))


def warn_of_keys(engine: Engine, layout: ClusterDirectory) -> None:
    """Warn of API keys that the nodes of a new cluster could not use, the operator's included."""
    lost = unusable_keys(engine, layout)
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        click.echo(
            f"API keys {', '.join(lost[:3])}{more} are encrypted under cluster keys that these nodes do not have: put the old cluster's cluster.key "
            "in the place of theirs before they start",
            err=True,
        )
    if engine.access.bootstrap_off:
        click.echo(
            "The operator's key is switched off in this state: sign with the key of an administrator, --key FILE", err=True
        )


@click.command("import")
@click.argument("source", metavar="DIR", type=DIRECTORY)
@place_option
@earlier_place("--into", "--into")
@json_option
def import_state(source: Path, target: Target, as_json: bool) -> None:
    """Begin a new cluster, which has never run, with the state in the TSV files of DIR. Everything is checked before
    anything is written.
    """
    layout = ClusterDirectory(target.directory)
    with progress("the tables are checked and written") as shown:
        engine = import_tables(source, layout, shown.stage)
    warn_of_keys(engine, layout)
    if as_json:
        print_json({"nodes": layout.node_ids, "sequence": engine.sequence, "hash": engine.full_hash()})
        return
    click.echo(f"{', '.join(layout.node_ids)} begin with sequence {engine.sequence:,}, hash {engine.full_hash().hex()[:16]}")


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("ops", type=FILE)
@click.option("--trades", type=FILE, help="The recorded executions, for comparison.")
@click.option("--limit", type=click.IntRange(min=1), help="Only this many operations.")
@click.option(
    "--run-id", default="", help="Name of the run, part of its product's and accounts' names. Default: the first that is free."
)
@click.option("--chunk", type=click.IntRange(1, 1000), default=500, show_default=True, help="Commands in flight.")
@cluster_option
@json_option
def replay(target: Target, as_json: bool, ops: Path, trades: Path | None, limit: int | None, run_id: str, chunk: int) -> None:
    """Send the recorded order flow OPS (csv, csv.gz) through the cluster, over failovers, and compare its executions.

    Exit code 1 if they differ from the recorded ones.
    """
    plan = ReplayPlan(ops, trades, limit or 0, run_id, chunk)
    with progress("replay") as shown:

        async def work(session: CliSession) -> ReplayReport:
            return await replay_recording(session.client, plan, shown.at)

        report = run(target, work)
    if as_json:
        print_json(report)
    else:
        click.echo(describe(report))
    if not report.perfect:
        raise click.exceptions.Exit(1)


def describe(report: ReplayReport) -> str:
    """Return the report as a few lines."""
    rate = f"{report.commands:,} commands in {report.seconds:.1f} s ({report.commands_per_second:,.0f}/s) on {report.product_id}"
    lines = [f"{rate}, {report.rejected:,} rejected, longest wait for an answer {report.longest_pause:.2f} s"]
    if report.expected is None or report.matched is None:
        lines.append(f"{report.executed:,} executions")
    else:
        lines.append(f"{report.matched:,} of {report.expected:,} executions as recorded")
        if report.executed != report.expected:
            lines.append(f"{report.executed:,} executions happened")
        if report.first_difference is not None:
            lines.append(f"the first difference is execution {report.first_difference + 1:,}")
    return "\n".join(lines)
