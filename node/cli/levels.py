"""`cluster upgrade` and `cluster downgrade` change the level at which a cluster runs, while it trades."""

from __future__ import annotations

import asyncio
from importlib import metadata

import click

from node.cli import session
from node.cli.output import ProgressBar, print_json, progress, show, table
from node.cli.session import CliSession, run
from node.cli.target import Target, cluster_option, json_option
from node.cluster_directory import Access
from node.deployment.statuses import ask_all
from node.native.protocol import LevelReport, NodeStatus

CHANGE_SECONDS = 900.0
"""Seconds for every node to convert its state and to apply the entry."""

EVERYWHERE_SECONDS = 60.0
"""Seconds for every node to have applied the entry, and for a return to have written a snapshot after it. A million
orders take about 30 s."""

POLL = 0.05

COLUMNS = ("node", "software", "level", "can run", "what prevents it")

check_option = click.option("--check", is_flag=True, help="Only show what prevents the change. Exit code 1 if anything does.")


@click.command()
@cluster_option
@json_option
@check_option
@click.option(
    "--to", "version", metavar="VERSION", default="", help="The version with the new level. Default: this program's version."
)
def upgrade(target: Target, as_json: bool, check: bool, version: str) -> None:
    """Change to the schema and the rules of a newer version, while the cluster trades.

    First install that version on every node, and restart the nodes one by one. Until this command they all keep the
    level of the previous version, and any of them can return to it. The change is one entry in the log, and is made
    only if every member can follow.
    """
    if not check and not version:
        raise click.UsageError("give --to VERSION or --check")
    _change(target, version or metadata.version("quorumbook"), as_json=as_json, check=check)


@click.command()
@cluster_option
@json_option
@check_option
@click.option("--to", "version", metavar="VERSION", required=True, help="The version with the new level.")
def downgrade(target: Target, as_json: bool, check: bool, version: str) -> None:
    """Return to the level of an earlier version, while the cluster trades, if nothing would be lost.

    That is so while nothing is in use that the earlier version lacks. Otherwise the command is rejected and names what
    is in use. Then `quorumbook rollback` returns to the state before the upgrade, and exports what that undoes. After
    the return every node can be stopped and started with the earlier version.
    """
    _change(target, version, as_json=as_json, check=check, command="downgrade")


def _change(target: Target, version: str, *, as_json: bool, check: bool, command: str = "upgrade") -> None:
    """Change the level, or check the change, and print the report."""

    async def work(session: CliSession) -> LevelReport:
        earlier = command == "downgrade"
        return await session.client.change_level(version, check=check, earlier=earlier, deadline=CHANGE_SECONDS)

    behind: list[str] = []
    members = ", ".join(session.reach(target).addresses)
    with progress(f"asking {members}" if check else f"waiting for {members} to make their states ready") as shown:
        report = run(target, work)
        if not check:
            behind = asyncio.run(_everywhere(report, session.reach(target), shown, with_snapshot=command == "downgrade"))
    _show(report, behind, as_json=as_json, check=check, command=command)
    if check and report.problems:
        raise click.exceptions.Exit(1)


async def _everywhere(report: LevelReport, access: Access, bar: ProgressBar, *, with_snapshot: bool) -> list[str]:
    """Wait until every member that answers is at the new level. With `with_snapshot` also until each has a snapshot of
    it: from then on the earlier version can start on the member's data, even after a kill. Returns what is missing at
    the end of the time.
    """

    def missing(status: NodeStatus) -> str:
        if status.level != report.to:
            return "has not applied the entry yet"
        if with_snapshot and status.snapshot_index < report.index:
            return f"has no snapshot of level {report.to} yet: stop it before version {report.to} is started on its data"
        return ""

    end = asyncio.get_running_loop().time() + EVERYWHERE_SECONDS
    while True:
        statuses = await ask_all(access.addresses, access.tls(), access.credentials)
        texts = {node_id: missing(status) for node_id, status in statuses.items() if status is not None}
        behind = [node_id for node_id, text in texts.items() if text]
        if not behind or asyncio.get_running_loop().time() > end:
            return [f"{node_id}: {texts[node_id]}" for node_id in behind]
        bar.stage(f"waiting for {', '.join(behind)}", len(statuses) - len(behind), len(statuses))
        await asyncio.sleep(POLL)


def _show(report: LevelReport, behind: list[str], *, as_json: bool, check: bool, command: str) -> None:
    """Print the report of a change of the level. `behind` are lines about members that are not at it yet."""
    if as_json:
        print_json(
            {
                "from": report.old,
                "to": report.to,
                "members": report.members,
                "problems": report.problems,
                "index": report.index,
                "behind": behind,
            }
        )
        return
    if report.members:
        rows = [[each.node_id, each.software, each.level, ", ".join(each.levels), each.problem] for each in report.members]
        show(table(COLUMNS, rows, title=f"level {report.old}, to {report.to}"))
    if report.old == report.to:
        click.echo(f"the level is {report.to} already")
    elif not check:
        click.echo(f"the level is {report.to} from log entry {report.index + 1:,} on (before: {report.old})")
        for text in behind:
            click.echo(text)
    elif report.problems:
        for problem in report.problems:
            click.echo(problem)
    else:
        click.echo(f"nothing prevents it: quorumbook cluster {command} --to {report.to}")
