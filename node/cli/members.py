"""`cluster members | add | remove | replace`: who belongs to the cluster, and changing it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.table import Table
from rich.text import Text

from node.cli.output import print_json, show, table
from node.cli.session import CLUSTER_VARIABLE, DEFAULT_CLUSTER, json_option
from node.deployment.local_cluster import LocalCluster
from node.deployment.member_changes import Addition, MemberChanges, progress
from node.native.protocol import MemberStatus, NodeStatus

WAIT_SECONDS = 600.0
COLUMNS = ("node", "role", "connected", "log", "raft", "native", "http")

_Result = TypeVar("_Result")
Command = Callable[..., object]

directory_argument = click.argument(
    "directory", type=click.Path(path_type=Path), envvar=CLUSTER_VARIABLE, default=DEFAULT_CLUSTER
)
seconds_option = click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(min=0),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds to wait until it is done.",
)
force_option = click.option(
    "--force", is_flag=True, help="Also where the cluster then survives no further failure, though it does now."
)


def _address_options(function: Command) -> Command:
    """The options of a node that joins."""
    for option in (
        click.option("--no-start", is_flag=True, help="Do not start it here: its directory goes to another machine."),
        click.option("--http", default="", help="Its public URL, http://host:port. Default: see --raft."),
        click.option("--native", default="", help="Where clients reach it, host:port. Default: see --raft."),
        click.option(
            "--raft", default="", help="Where the other nodes reach it, host:port. Default: the members' host, the next port."
        ),
    ):
        function = option(function)
    return function


@click.command()
@directory_argument
@json_option
def members(directory: Path, as_json: bool) -> None:
    """Who belongs to the cluster, as its leader sees it."""
    status = _with_changes(directory, lambda changes: changes.status())
    if as_json:
        print_json({"leader": status.leader_id, "index": status.members_index, "members": status.members})
    else:
        show(members_table(status))


@click.command()
@directory_argument
@click.argument("node_id", metavar="NODE")
@_address_options
@click.option("--read-only", is_flag=True, help="It never votes: for feeds, queries and history.")
@seconds_option
def add(
    directory: Path, node_id: str, raft: str, native: str, http: str, no_start: bool, read_only: bool, seconds: float
) -> None:
    """Add NODE to the cluster in DIRECTORY: make DIRECTORY/NODE, start it, and wait until it votes (with --read-only: is level).

    Needs ca.key in DIRECTORY. Stopped at any moment, the same command goes on where it was.
    """
    wanted = Addition(node_id, raft, native, http, read_only=read_only, start=not no_start)
    _with_changes(directory, lambda changes: changes.add(wanted, seconds))


@click.command()
@directory_argument
@click.argument("node_id", metavar="NODE")
@force_option
def remove(directory: Path, node_id: str, force: bool) -> None:
    """Remove NODE from the cluster in DIRECTORY for good; if it leads, another one takes over first.

    It may be down. If it runs it stops, and does not start again. An id is used once.
    """
    _with_changes(directory, lambda changes: changes.remove(node_id, force=force))


@click.command()
@directory_argument
@click.argument("old", metavar="NODE")
@click.argument("new", metavar="NEW")
@_address_options
@force_option
@seconds_option
def replace(
    directory: Path, old: str, new: str, raft: str, native: str, http: str, no_start: bool, force: bool, seconds: float
) -> None:
    """Add NEW to the cluster in DIRECTORY, wait until it votes, and remove NODE, which may be down.

    Stopped at any moment, the same command goes on where it was.
    """
    wanted = Addition(new, raft, native, http, start=not no_start)
    _with_changes(directory, lambda changes: changes.replace(old, wanted, seconds, force=force))


def _with_changes(directory: Path, work: Callable[[MemberChanges], Awaitable[_Result]]) -> _Result:
    async def connected() -> _Result:
        changes = MemberChanges(LocalCluster(directory), click.echo)
        try:
            return await work(changes)
        finally:
            await changes.close()

    return asyncio.run(connected())


def members_table(status: NodeStatus) -> Table:
    """The members, one a row."""
    title = f"cluster {status.cluster_id}, {status.leader_id} leads"
    return table(COLUMNS, [_row(member, status) for member in status.members], title=title)


def _row(member: MemberStatus, status: NodeStatus) -> list[str | Text]:
    connected = Text("yes") if member.connected else Text("no", style="red")
    role = member.role.replace("_", "-")
    return [member.node_id, role, connected, progress(member, status), member.raft, member.native, member.http]
