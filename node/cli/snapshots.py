"""`snapshot list | take | verify | restore`, `backup`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from node.cli.output import instant, print_json, show, table
from node.cli.session import Session, Target, cluster_option, json_option, run
from node.cli.tables import warn_of_keys
from node.cluster_directory import ClusterDirectory
from node.deployment.local_cluster import LocalCluster
from node.errors import DirectoryError, NodeStartError
from node.native.protocol import ControlAction
from node.records import backup as backups

DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)
COLUMNS = ("node", "index", "term", "sequence", "taken at", "rows", "MB", "shared", "software", "ABI")
NUMBERS = ("index", "term", "sequence", "rows", "MB", "shared")
POLL_SECONDS = 0.1


@click.group()
def snapshot() -> None:
    """The snapshots of nodes."""


@snapshot.command("list")
@cluster_option
@click.option("--node", "node_id", help="Only those of this node. Default: of all nodes whose directories are on this machine.")
@json_option
def list_snapshots(target: Target, node_id: str | None, as_json: bool) -> None:
    """Show what snapshots the nodes on this machine have. "shared": how many of the MB lie in files that an older snapshot has too."""
    layout = ClusterDirectory(target.directory)
    found = {name: backups.listed(backups.snapshots_of(layout.configs[name])) for name in _chosen(layout, node_id)}
    if as_json:
        print_json(found)
        return
    rows = []
    for name, snapshots in found.items():
        for each in snapshots:
            manifest = each.manifest
            rows.append(
                [
                    name,
                    f"{manifest.index:,}",
                    f"{manifest.term:,}",
                    f"{manifest.sequence:,}",
                    instant(manifest.created_at),
                    f"{sum(manifest.row_counts.values()):,}",
                    f"{each.bytes / 1e6:,.1f}",
                    f"{each.shared / 1e6:,.1f}",
                    manifest.software,
                    manifest.abi[:12],
                ]
            )
    show(table(COLUMNS, rows, title=f"snapshots of {layout.cluster_id}", right=NUMBERS))


def _chosen(layout: ClusterDirectory, node_id: str | None) -> list[str]:
    if node_id is None:
        return layout.node_ids
    if node_id not in layout.configs:
        raise DirectoryError(f"no node {node_id!r} on this machine; there are: {', '.join(layout.node_ids)}")
    return [node_id]


@snapshot.command()
@click.argument("node_id", metavar="NODE")
@cluster_option
def take(target: Target, node_id: str) -> None:
    """Ask NODE to take a snapshot now."""
    click.echo(f"{node_id} takes a snapshot" if _take(target, node_id) else f"{node_id} takes one already")


def _take(target: Target, node_id: str) -> bool:
    known = ClusterDirectory(target.directory).addresses
    if node_id not in known:
        raise DirectoryError(f"no node {node_id!r}; there are: {', '.join(known)}")

    async def work(session: Session) -> bool:
        return await session.client.control(ControlAction.SNAPSHOT, node_id)

    return run(target, work)


@snapshot.command()
@click.argument("path", metavar="SNAPSHOT", type=DIRECTORY)
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check a SNAPSHOT (a directory named by its index): every file, every row, all hashes, and the state's own rules."""
    manifest = backups.verify(path)
    if as_json:
        print_json(manifest)
        return
    click.echo(
        f"index {manifest.index:,}, term {manifest.term:,}, sequence {manifest.sequence:,}, {instant(manifest.created_at)}"
    )
    click.echo(f"software {manifest.software}, ABI {manifest.abi}")
    click.echo(", ".join(f"{name} {rows:,}" for name, rows in manifest.row_counts.items()))
    click.echo(f"whole; hash over all tables {manifest.full_hash.hex()}")


@snapshot.command()
@click.argument("path", metavar="SNAPSHOT", type=DIRECTORY)
@click.argument("directory", type=DIRECTORY)
def restore(path: Path, directory: Path) -> None:
    """Give the new cluster in DIRECTORY, which `quorumbook init` made and which has never run, the state of a SNAPSHOT."""
    layout = ClusterDirectory(directory)
    manifest, engine = backups.restore(path, layout)
    click.echo(
        f"{', '.join(layout.node_ids)} of {layout.cluster_id} begin at index {manifest.index:,}, sequence {manifest.sequence:,}, "
        f"taken {instant(manifest.created_at)}"
    )
    click.echo(
        "What the old cluster acknowledged after that is not in it. Its nodes cannot join this one, nor these the old one."
    )
    warn_of_keys(engine, layout)


@click.command()
@click.argument("destination", metavar="DIRECTORY", type=click.Path(path_type=Path, file_okay=False))
@cluster_option
@click.option("--node", "node_id", required=True, help="Whose snapshot: a node on this machine; best a follower.")
@click.option("--newest", is_flag=True, help="Copy the newest snapshot there is, without taking one. The node need not run.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(min=0), default=120.0, show_default=True, help="Seconds to wait for the snapshot."
)
def backup(destination: Path, target: Target, node_id: str, newest: bool, seconds: float) -> None:
    """Have a node take a snapshot, and copy it to DIRECTORY, while the cluster runs. Earlier backups there stay."""
    layout = ClusterDirectory(target.directory)
    (name,) = _chosen(layout, node_id)
    source = backups.snapshots_of(layout.configs[name])
    if not newest:
        before = _newest_index(source)
        _take(target, name)
        _wait_for_newer(LocalCluster(target.directory), name, before, seconds)
    manifest = backups.back_up(source, destination)
    click.echo(f"{destination / f'{manifest.index:020d}'}: sequence {manifest.sequence:,}, {instant(manifest.created_at)}")


def _newest_index(source: Path) -> int:
    return max((each.manifest.index for each in backups.listed(source)), default=0)


def _wait_for_newer(local: LocalCluster, node_id: str, index: int, seconds: float) -> None:
    """Until the node's newest snapshot is newer than `index`, or has all that the node has applied.

    Raises:
        NodeStartError: that did not come in time.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = asyncio.run(local.status())[node_id]
        if (
            status is not None
            and status.snapshot_index
            and (status.snapshot_index > index or status.snapshot_index >= status.applied_index)
        ):
            return
        time.sleep(POLL_SECONDS)
    raise NodeStartError(f"{node_id} has no newer snapshot after {seconds:g} s; see {local.layout.log_file(node_id)}")
