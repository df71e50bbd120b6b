"""`audit`: what the nodes have on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec
from rich.text import Text

from node.cli.output import print_json, show, table, working
from node.cli.target import Target, earlier_place, json_option, place_option
from node.deployment.local_cluster import LocalCluster
from node.errors import DirectoryError
from node.records.audit import AuditReport, audit_directory, audit_running

DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)


def node_config_path(directory: Path, node_id: str | None) -> Path:
    """The configuration of the node that is meant in a node's or a cluster's directory; the first one of a cluster
    unless named.

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
    "--acks", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="What clients were told, as JSON lines."
)
@click.option("--offline", is_flag=True, help="Do not ask the nodes for their state hashes.")
@json_option
def audit(target: Target, acks: Path | None, offline: bool, as_json: bool) -> None:
    """Read the nodes' logs, apply every command again, and compare with what clients and nodes say.

    Exit code 1 on any difference. Nodes that are down are audited by their logs alone. Needs raft.archive_log = true.
    """
    directory = target.directory
    local = LocalCluster(directory)
    running = [] if offline else local.running()
    statuses = (
        {node_id: status for node_id, status in asyncio.run(local.status()).items() if node_id in running} if running else None
    )
    with working("the logs are read and every command is applied again"):
        report = (audit_running if running else audit_directory)(directory, acks, statuses)
    if as_json:
        print_json({**msgspec.structs.asdict(report), "holds": report.holds})
    else:
        _show(report)
    if not report.holds:
        raise click.exceptions.Exit(1)


def _show(report: AuditReport) -> None:
    rows: list[list[str | Text]] = [
        [Text("holds", style="green") if check.holds else Text("FAILS", style="bold red"), check.claim, check.detail]
        for check in report.checks
    ]
    title = f"{report.commands:,} commands up to index {report.commit_index:,}, sequence {report.sequence:,}"
    show(table(("", "claim", "checked"), rows, title=title))
