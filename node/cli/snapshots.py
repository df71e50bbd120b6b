"""`snapshot list | take | verify | restore`, `backup`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from node.cli.output import instant, print_json, progress, show, table
from node.cli.program import Commands
from node.cli.records import warn_of_keys
from node.cli.session import CliSession, run
from node.cli.target import Finite, Target, cluster_option, earlier_place, json_option, place_option
from node.cluster_directory import ClusterDirectory
from node.errors import DirectoryError, NodeStartError
from node.native.protocol import ControlAction, NodeStatus, StatusQuery
from node.records import backup as backups
from node.records.exporting import is_running, snapshot_now

DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)
COLUMNS = ("node", "index", "term", "sequence", "taken at", "rows", "MB", "shared", "software", "ABI")
NUMBERS = ("index", "term", "sequence", "rows", "MB", "shared")
POLL_SECONDS = 0.1

seconds_option = click.option(
    "--wait", "seconds", type=Finite(min=0), default=120.0, show_default=True, help="Seconds to wait for the snapshot."
)


@click.group(cls=Commands)
def snapshot() -> None:
    """The snapshots of nodes."""


@snapshot.command("list")
@place_option
@click.option("--node", "node_id", help="Only snapshots of this node. Default: of all nodes on this machine.")
@json_option
def list_snapshots(target: Target, node_id: str | None, as_json: bool) -> None:
    """List the snapshots of the nodes on this machine. "shared": MB in files that an older snapshot has too."""
    layout = ClusterDirectory(target.directory)
    by_node = {name: backups.listed(backups.snapshots_of(layout.configs[name])) for name in _chosen(layout, node_id)}
    if as_json:
        print_json(by_node)
        return
    rows = []
    for name, snapshots in by_node.items():
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
    """Return the chosen node, or all nodes of this machine. Raises DirectoryError."""
    if node_id is None:
        return layout.node_ids
    if node_id not in layout.configs:
        raise DirectoryError(f"no node {node_id!r} on this machine; there are: {', '.join(layout.node_ids)}")
    return [node_id]


@snapshot.command()
@click.argument("node_id", metavar="NODE")
@cluster_option
@seconds_option
@json_option
def take(target: Target, node_id: str, seconds: float, as_json: bool) -> None:
    """Make NODE take a snapshot, and wait until it is on disk."""

    async def work(session: CliSession) -> NodeStatus:
        return await _taken(session, node_id, seconds)

    with progress(f"{node_id} takes a snapshot"):
        status = run(target, work)
    if as_json:
        print_json({"node_id": node_id, "snapshot_index": status.snapshot_index, "sequence": status.sequence})
    else:
        click.echo(f"{node_id}: the snapshot at index {status.snapshot_index:,} is on disk")


async def _taken(session: CliSession, node_id: str, seconds: float) -> NodeStatus:
    """Ask a node for a snapshot, and wait until its newest one covers everything it had applied. Returns its status.

    Raises:
        DirectoryError: no such node.
        NodeStartError: that did not come in time.
        ConnectionLost, RequestFailed: the node does not answer.
    """
    known: NodeStatus = await session.client.query(StatusQuery())
    addresses = session.client.addresses | {member.node_id: member.native for member in known.members}
    if node_id not in addresses:
        raise DirectoryError(f"no node {node_id!r}; there are: {', '.join(sorted(member.node_id for member in known.members))}")
    before: NodeStatus = await session.client.query_node(node_id, StatusQuery())
    await session.client.control(ControlAction.SNAPSHOT, node_id)
    end = time.monotonic() + seconds
    while True:
        status: NodeStatus = await session.client.query_node(node_id, StatusQuery())
        if status.snapshot_index >= before.applied_index:
            return status
        if time.monotonic() > end:
            raise NodeStartError(f"{node_id} has no newer snapshot after {seconds:g} s; its log says why")
        await asyncio.sleep(POLL_SECONDS)


@snapshot.command()
@click.argument("paths", metavar="SNAPSHOT...", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@json_option
def verify(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check each SNAPSHOT (a directory named by its index): every file, every row, all hashes, and the state's
    invariants.

    Other files are skipped with a message, so that `verify /backup/*` checks a whole directory of backups. At least one
    must be a snapshot.
    """
    chosen = [path for path in paths if path.is_dir() and backups.is_snapshot(path)]
    for path in paths:
        if path not in chosen:
            click.echo(f"{path}: not a snapshot, skipped", err=True)
    if not chosen:
        backups.check_snapshot(paths[0])
    manifests = []
    for path in chosen:
        with progress(f"{path} is read") as shown:
            manifests.append(backups.verify(path, shown.stage))
    if as_json:
        print_json(manifests[0] if len(paths) == 1 else {str(path): each for path, each in zip(chosen, manifests, strict=True)})
        return
    for path, manifest in zip(chosen, manifests, strict=True):
        if len(chosen) > 1:
            click.echo(f"{path}:")
        click.echo(
            f"index {manifest.index:,}, term {manifest.term:,}, sequence {manifest.sequence:,}, {instant(manifest.created_at)}"
        )
        click.echo(f"software {manifest.software}, ABI {manifest.abi}")
        click.echo(", ".join(f"{name} {rows:,}" for name, rows in manifest.row_counts.items()))
        click.echo(f"intact; hash over all tables {manifest.full_hash.hex()}")


@snapshot.command()
@click.argument("path", metavar="SNAPSHOT", type=DIRECTORY)
@place_option
@earlier_place()
@json_option
def restore(path: Path, target: Target, as_json: bool) -> None:
    """Give a new cluster, which `quorumbook init` made and which has never run, the state of a SNAPSHOT."""
    layout = ClusterDirectory(target.directory)
    with progress("the snapshot is checked and copied") as shown:
        manifest, engine = backups.restore(path, layout, shown.stage)
    warn_of_keys(engine, layout)
    if as_json:
        print_json(
            {"cluster_id": layout.cluster_id, "nodes": layout.node_ids, "index": manifest.index, "sequence": manifest.sequence}
        )
        return
    click.echo(
        f"{', '.join(layout.node_ids)} of {layout.cluster_id} begin at index {manifest.index:,}, sequence {manifest.sequence:,}, "
        f"taken {instant(manifest.created_at)}"
    )
    click.echo("It lacks what the old cluster acknowledged later. Nodes of the two clusters cannot join each other.")


@click.command()
@click.argument("destination", metavar="DIRECTORY", type=click.Path(path_type=Path, file_okay=False))
@place_option
@click.option("--node", "node_id", required=True, help="The node on this machine, preferably a follower.")
@click.option("--newest", is_flag=True, help="Copy the newest existing snapshot. The node need not run.")
@seconds_option
@json_option
def backup(destination: Path, target: Target, node_id: str, newest: bool, seconds: float, as_json: bool) -> None:
    """Make a node take a snapshot, and copy it to DIRECTORY, while the cluster runs. Earlier backups there stay."""
    layout = ClusterDirectory(target.directory)
    (name,) = _chosen(layout, node_id)
    config = layout.configs[name]
    with progress(f"{name}: its newest snapshot" if newest else f"{name} takes a snapshot") as shown:
        if not newest:
            if not is_running(config):
                raise NodeStartError(f"{name} does not run; --newest copies the newest snapshot that it has")
            asyncio.run(snapshot_now(config, seconds))
        manifest = backups.back_up(backups.snapshots_of(config), destination, shown.stage)
    path = destination / f"{manifest.index:020d}"
    if as_json:
        print_json(
            {"path": str(path), "index": manifest.index, "sequence": manifest.sequence, "taken_at": instant(manifest.created_at)}
        )
        return
    click.echo(f"{path}: sequence {manifest.sequence:,}, {instant(manifest.created_at)}")
