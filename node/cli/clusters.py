"""`cluster up | down | status` and what an operator asks of running nodes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node.cli import members
from node.cli.output import print_json, show, table
from node.cli.session import CLUSTER_VARIABLE, DEFAULT_CLUSTER, Session, Target, cluster_option, json_option, run
from node.cluster_directory import ClusterDirectory
from node.deployment.local_cluster import LocalCluster, Statuses, leader_of
from node.deployment.rotation import rotate
from node.native.protocol import ControlAction, MemberStatus, NodeStatus

COLUMNS = ("node", "mode", "role", "term", "commit", "applied", "sequence", "state hash", "snapshot", "others", "ready", "up")
NUMBERS = ("term", "commit", "applied", "sequence", "snapshot", "up")
WATCH_SECONDS = 0.5

directory_argument = click.argument(
    "directory", type=click.Path(path_type=Path), envvar=CLUSTER_VARIABLE, default=DEFAULT_CLUSTER, required=False
)
node_option = click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be given several times.")


@click.group()
def cluster() -> None:
    """The nodes of a cluster on this machine, in the background, and who belongs to it."""


@cluster.command()
@directory_argument
@node_option
@click.option("--rejoin", is_flag=True, help="With one --node: its data directory was lost; see `node start --help`.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds to wait until they serve."
)
def up(directory: Path, nodes: tuple[str, ...], rejoin: bool, seconds: float) -> None:
    """Start the nodes of the cluster in DIRECTORY (default: ./cluster) that are not running, and wait until they serve.

    Each one writes to DIRECTORY/NODE/node.log.
    """
    if rejoin and len(nodes) != 1:
        raise click.UsageError("--rejoin is for one node whose disk was lost: name it with --node.")
    local = LocalCluster(directory)
    chosen = list(nodes) or local.node_ids
    starting = [node_id for node_id in chosen if node_id not in local.running()]
    local.start(starting, rejoin=rejoin)
    if seconds:
        statuses = asyncio.run(local.wait_ready(seconds, chosen))
        click.echo(f"{', '.join(statuses)} ready, {leader_of(statuses) or _leader_named(statuses)} leads")
    else:
        click.echo(f"{', '.join(starting) or 'nothing'} started")
    for node_id in chosen:
        click.echo(f"{node_id}: {local.layout.http_urls[node_id]}, native {local.layout.addresses[node_id]}")


@cluster.command()
@directory_argument
@node_option
def down(directory: Path, nodes: tuple[str, ...]) -> None:
    """Stop the nodes of the cluster in DIRECTORY; a leader hands over first."""
    local = LocalCluster(directory)
    running = [node_id for node_id in (nodes or local.node_ids) if node_id in local.running()]
    local.stop(list(nodes) or None)
    click.echo(f"{', '.join(running)} stopped" if running else "nothing was running")


@cluster.command()
@directory_argument
@json_option
@click.option("--watch", is_flag=True, help="Keep showing, until Ctrl-C.")
def status(directory: Path, as_json: bool, watch: bool) -> None:
    """What each node says of itself. Exit code 1 when no leader serves."""
    local = LocalCluster(directory)
    if watch and not as_json:
        _watch(local)
        return
    statuses = asyncio.run(local.status())
    if as_json:
        print_json({"leader": leader_of(statuses) or None, "nodes": statuses})
    else:
        show(status_table(local.layout.cluster_id, statuses))
    if not leader_of(statuses):
        raise click.exceptions.Exit(1)


@cluster.command("transfer-leadership")
@cluster_option
def transfer_leadership(target: Target) -> None:
    """Ask the leader to hand over to another node."""

    async def work(session: Session) -> bool:
        return await session.client.control(ControlAction.TRANSFER_LEADERSHIP)

    click.echo("the leader hands over" if run(target, work) else "no other node can take over now")


for command in (members.members, members.add, members.remove, members.replace):
    cluster.add_command(command)


def status_table(cluster_id: str, statuses: Statuses) -> Table:
    """The nodes, one a row; a node that does not answer is shown as such."""
    rows = [_row(node_id, status) for node_id, status in statuses.items()]
    return table(COLUMNS, rows, title=f"cluster {cluster_id}", right=NUMBERS)


def _row(node_id: str, status: NodeStatus | None) -> list[str | Text]:
    if status is None:
        return [node_id, "", Text("unreachable", style="red"), *[""] * (len(COLUMNS) - 3)]
    role = Text(_role(status), style="bold green" if status.role == "leader" else "")
    ready = Text("yes") if status.ready else Text("no", style="yellow")
    if not status.voter and (status.member is None or status.member.role == "voter"):
        ready.append(", no vote yet", style="yellow")
    return [
        node_id,
        status.mode,
        role,
        f"{status.term:,}",
        f"{status.commit_index:,}",
        f"{status.applied_index:,}",
        f"{status.sequence:,}",
        status.state_hash[:12],
        f"{status.snapshot_index:,}",
        ", ".join(_seen(member) for member in status.others),
        ready,
        f"{status.uptime:.0f} s",
    ]


def _role(status: NodeStatus) -> str:
    """What the node is: a member without a vote is no ordinary follower."""
    member = status.member
    return status.role if member is None or member.role == "voter" else member.role.replace("_", "-")


def _seen(member: MemberStatus) -> str:
    """Another member: in parentheses when it is not connected, and with the snapshot that is on its way to it."""
    if not member.connected:
        return f"({member.node_id})"
    if member.snapshot_size:
        return f"{member.node_id} (snapshot {100 * member.snapshot_sent // member.snapshot_size} %)"
    return member.node_id


def _leader_named(statuses: Statuses) -> str:
    return next((status.leader_id for status in statuses.values() if status is not None and status.leader_id), "nobody")


def _watch(local: LocalCluster) -> None:
    with Live(refresh_per_second=4) as live:
        try:
            while True:
                live.update(status_table(local.layout.cluster_id, asyncio.run(local.status())))
                time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return


@cluster.command("rotate-key")
@directory_argument
def rotate_key(directory: Path) -> None:
    """Give the nodes in DIRECTORY one more cluster key; then encrypt the API keys under it: `quorumbook key reseal`.

    Nodes that run take it up by themselves. Where some nodes lack a key that others have, they are given that one.
    """
    layout = ClusterDirectory(directory)
    done = rotate(layout)
    click.echo(
        f"cluster key {done.number} {'is new' if done.made else 'was there already'}, and in {', '.join(map(str, done.paths))}"
    )
    elsewhere = [node_id for node_id in layout.addresses if node_id not in layout.node_ids]
    if elsewhere:
        click.echo(f"Copy one of these files to {', '.join(elsewhere)} before you go on.")
