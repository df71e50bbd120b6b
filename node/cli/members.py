"""`cluster members | add | remove | replace`: shows and changes the members of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from shlex import quote

import click
import msgspec
from rich.table import Table
from rich.text import Text

from node.cli.output import print_json, show, table
from node.cli.session import CliSession, run
from node.cli.target import Finite, Target, cluster_option, deprecated, earlier_place, json_option, keyed_place_option
from node.deployment.local_cluster import LocalCluster
from node.deployment.member_changes import Addition, MemberChanges, progress
from node.native.protocol import MemberStatus, NodeStatus, StatusQuery

WAIT_SECONDS = 600.0
SKEW_SHOWN = 0.5
"""Difference of two clocks, in seconds, from which it is coloured."""

COLUMNS = ("node", "role", "connected", "log", "clock", "raft", "native", "http")

Command = Callable[..., object]

seconds_option = click.option(
    "--wait",
    "seconds",
    type=Finite(min=0),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds to wait until it is done.",
)
force_option = click.option("--force", is_flag=True, help="Continue even if the cluster then no longer survives a failure.")


def _address_options(function: Command) -> Command:
    """Add the options of a node that joins."""
    for option in (
        click.option("--no-start", is_flag=True, help="Do not start it here, because its directory moves to another machine."),
        click.option("--http", default="", help="Its public URL, http://host:port. Default: see --raft."),
        click.option("--native", default="", help="Its address for clients, host:port. Default: see --raft."),
        click.option(
            "--raft", default="", help="Its address for other nodes, host:port. Default: the members' host, the next port."
        ),
    ):
        function = option(function)
    return function


@click.command()
@cluster_option
@earlier_place()
@json_option
def members(target: Target, as_json: bool) -> None:
    """List the members of the cluster, as its leader sees them."""

    async def work(session: CliSession) -> NodeStatus:
        status: NodeStatus = await session.client.query(StatusQuery(), linearizable=True)
        return status

    status = run(target, work)
    if as_json:
        print_json({"leader": status.leader_id, "index": status.members_index, "members": status.members})
    else:
        show(members_table(status))


def _names(target: Target, names: tuple[str, ...], *wanted: str) -> tuple[Target, list[str]]:
    """Return the named nodes. In older versions the cluster's directory came before them.

    Raises:
        click.UsageError: too few or too many.
    """
    if len(names) == len(wanted) + 1:
        deprecated(f"the directory {names[0]} as an argument", f"--cluster {quote(names[0])}")
        return msgspec.structs.replace(target, place=Path(names[0])), list(names[1:])
    if len(names) != len(wanted):
        raise click.UsageError(f"Expected {' and '.join(wanted)}.")
    return target, list(names)


@click.command()
@keyed_place_option
@click.argument("names", metavar="NODE", nargs=-1)
@_address_options
@click.option("--read-only", is_flag=True, help="It never votes: for feeds, queries and history.")
@seconds_option
@json_option
def add(
    target: Target,
    as_json: bool,
    names: tuple[str, ...],
    raft: str,
    native: str,
    http: str,
    no_start: bool,
    read_only: bool,
    seconds: float,
) -> None:
    """Add NODE to the cluster: make its directory, start it, and wait until it votes (with --read-only: has caught up).

    Needs ca.key in the cluster's directory. After an interruption the same command continues.
    """
    target, (node_id,) = _names(target, names, "NODE")
    wanted = Addition(node_id, raft, native, http, read_only=read_only, start=not no_start)
    _with_changes(target, as_json, lambda changes: changes.add(wanted, seconds))


@click.command()
@keyed_place_option
@click.argument("names", metavar="NODE", nargs=-1)
@force_option
@json_option
def remove(target: Target, as_json: bool, names: tuple[str, ...], force: bool) -> None:
    """Remove NODE from the cluster for good. If it leads, it transfers its leadership first.

    It may be down. If it runs it stops, and does not start again. An id is used once.
    """
    target, (node_id,) = _names(target, names, "NODE")
    _with_changes(target, as_json, lambda changes: changes.remove(node_id, force=force))


@click.command()
@keyed_place_option
@click.argument("names", metavar="NODE NEW", nargs=-1)
@_address_options
@force_option
@seconds_option
@json_option
def replace(
    target: Target,
    as_json: bool,
    names: tuple[str, ...],
    raft: str,
    native: str,
    http: str,
    no_start: bool,
    force: bool,
    seconds: float,
) -> None:
    """Add NEW to the cluster, wait until it votes, and remove NODE, which may be down.

    After an interruption the same command continues.
    """
    target, (old, new) = _names(target, names, "NODE", "NEW")
    wanted = Addition(new, raft, native, http, start=not no_start)
    _with_changes(target, as_json, lambda changes: changes.replace(old, wanted, seconds, force=force))


def _with_changes(target: Target, as_json: bool, work: Callable[[MemberChanges], Awaitable[None]]) -> None:
    """Run `work` with the cluster's membership. Its progress is printed as it happens, or at the end with `as_json`."""
    lines: list[str] = []
    credentials = target.key.credentials() if target.key is not None else None

    async def connected() -> None:
        changes = MemberChanges(LocalCluster(target.directory), lines.append if as_json else click.echo, credentials)
        try:
            await work(changes)
        finally:
            await changes.close()

    asyncio.run(connected())
    if as_json:
        print_json({"done": lines})


def members_table(status: NodeStatus) -> Table:
    """Return a table with a row for each member."""
    title = f"cluster {status.cluster_id}, {status.leader_id} leads"
    return table(COLUMNS, [_row(member, status) for member in status.members], title=title)


def _row(member: MemberStatus, status: NodeStatus) -> list[str | Text]:
    connected = Text("yes") if member.connected else Text("no", style="red")
    role = member.role.replace("_", "-")
    return [member.node_id, role, connected, progress(member, status), skew(member), member.raft, member.native, member.http]


def skew(member: MemberStatus) -> Text:
    """Return how far a member's clock is ahead of the answering node's, coloured if it is far; empty if unknown."""
    if member.clock_skew is None:
        return Text("")
    return Text(f"{member.clock_skew * 1e3:+.0f} ms", style="yellow" if abs(member.clock_skew) > SKEW_SHOWN else "")
