"""`cluster up | down | status` and other commands of an operator for running nodes; `demo`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node import exit_codes
from node.cli import levels, members
from node.cli.output import duration, instant, plain_console, print_json, progress, show, table
from node.cli.program import Commands
from node.cli.session import CliSession, run
from node.cli.target import Finite, Target, cluster_option, earlier_place, json_option, place_option
from node.cluster_directory import ClusterDirectory
from node.config.file import load
from node.deployment.local_cluster import LocalCluster
from node.deployment.renewing import rotate
from node.deployment.statuses import Statuses, ask_all, asking, leader_of
from node.diagnosis.health import wait_until_may_stop
from node.errors import DirectoryError, RequestFailed
from node.native.protocol import ControlAction, FailCode, MemberStatus, NodeStatus, StatusQuery
from node.system.processes import ENGINE_PID_FILE, locked_note
from node.tls.certificates import WARN_DAYS, days_left, expiry

COLUMNS = (
    "node",
    "mode",
    "role",
    "term",
    "commit",
    "applied",
    "lag",
    "sequence",
    "state hash",
    "snapshot",
    "others",
    "ready",
    "up",
    "version",
    "level",
)
NUMBERS = ("term", "commit", "applied", "lag", "sequence", "snapshot", "up")
WATCH_SECONDS = 0.5
POLL_SECONDS = 0.05

LAG_SHOWN = 1_000
"""Committed entries that a node may lack before its row is coloured."""

node_option = click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may repeat.")


@click.group(cls=Commands)
def cluster() -> None:
    """The nodes of a cluster on this machine, in the background, and the members of the cluster."""


@cluster.command()
@place_option
@earlier_place()
@node_option
@click.option("--rejoin", is_flag=True, help="With one --node: its data directory was lost; see `node start --help`.")
@json_option
@click.option("--wait", "seconds", type=Finite(min=0), default=30.0, show_default=True, help="Seconds to wait until they serve.")
def up(target: Target, as_json: bool, nodes: tuple[str, ...], rejoin: bool, seconds: float) -> None:
    """Start the nodes of this machine that do not run, in the background, and wait until they serve.

    Each node writes its log to node.log in its directory.
    """
    if rejoin and len(nodes) != 1:
        raise click.UsageError("--rejoin is for one node whose disk was lost: name it with --node.")
    local = LocalCluster(target.directory)
    chosen = list(nodes) or local.node_ids
    starting = [node_id for node_id in chosen if node_id not in local.running()]
    local.start(starting, rejoin=rejoin)
    statuses: Statuses = {}
    if seconds:
        with progress("the nodes start"):
            statuses = asyncio.run(local.wait_ready(seconds, chosen))
    leader = leader_of(statuses) or _leader_named(statuses)
    places = {name: {"http": local.layout.http_urls[name], "native": local.layout.addresses[name]} for name in chosen}
    if as_json:
        print_json({"started": starting, "ready": list(statuses), "leader": leader if statuses else None, "nodes": places})
        return
    if statuses:
        click.echo(f"{', '.join(statuses)} ready, {leader} leads")
    else:
        click.echo(f"{', '.join(starting) or 'nothing'} started")
    for node_id, place in places.items():
        click.echo(f"{node_id}: {place['http']}, native {place['native']}")


@cluster.command()
@place_option
@earlier_place()
@node_option
@json_option
def down(target: Target, as_json: bool, nodes: tuple[str, ...]) -> None:
    """Stop the nodes of this machine. A leader transfers its leadership first.

    A node with an invalid node.toml is left out, and the exit code is then 1.
    """
    local = LocalCluster(target.directory, leave_out_invalid=True)
    _show_invalid(local)
    running = [node_id for node_id in (nodes or local.node_ids) if node_id in local.running()]
    with progress("the nodes stop"):
        local.stop(list(nodes) or None)
    if as_json:
        print_json({"stopped": running})
    else:
        click.echo(f"{', '.join(running)} stopped" if running else "nothing was running")
    if local.layout.invalid:
        raise click.exceptions.Exit(exit_codes.FAILED)


@cluster.command()
@cluster_option
@earlier_place()
@json_option
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
def status(target: Target, as_json: bool, watch: bool) -> None:
    """Show the status of each node. Exit code 69 when no leader serves, 1 when a node.toml of this machine is not
    right.
    """
    look = _Look(target)
    if watch and not as_json:
        _watch(look)
        return
    statuses = look.statuses()
    if as_json:
        print_json({"leader": leader_of(statuses) or None, "nodes": statuses, "modes": look.modes(statuses)})
    else:
        show(status_table(look.title(statuses), statuses, look.modes(statuses)))
        _show_certificates(look.certificate_ends(statuses))
        for node_id, node_status in statuses.items():
            for text in node_status.warnings if node_status is not None else ():
                click.echo(f"{node_id}: {text}", err=True)
    if not leader_of(statuses):
        raise click.exceptions.Exit(exit_codes.UNAVAILABLE)
    if look.has_invalid:
        raise click.exceptions.Exit(exit_codes.FAILED)


def _show_invalid(local: LocalCluster) -> None:
    """Show on stderr which configurations are invalid."""
    for error in local.layout.invalid:
        click.echo(f"error: {error}; this node is left out", err=True)


@cluster.command("transfer-leadership")
@cluster_option
@json_option
@click.option(
    "--to", "successor", metavar="NODE", default="", help="The node that is to lead. Default: the most up-to-date node."
)
@click.option(
    "--wait",
    "seconds",
    type=Finite(min=0),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the next leader.",
)
def transfer_leadership(target: Target, as_json: bool, successor: str, seconds: float) -> None:
    """Transfer leadership to another node, and wait until it leads."""

    async def work(session: CliSession) -> tuple[str, str]:
        before: NodeStatus = await session.read(StatusQuery())
        if successor and successor not in (known := {member.node_id for member in before.members}):
            raise DirectoryError(f"no node {successor!r} in the cluster; there are: {', '.join(sorted(known))}")
        if successor == before.leader_id:
            return before.leader_id, before.leader_id
        await session.client.control(ControlAction.TRANSFER_LEADERSHIP, about=successor)
        return before.leader_id, await _next_leader(session, before, seconds)

    with progress("leadership moves"):
        old, new = run(target, work)
    if as_json:
        print_json({"before": old, "leader": new})
    else:
        click.echo(f"{new} leads (before: {old})" if new != old else f"{new} leads already")


async def _next_leader(session: CliSession, before: NodeStatus, seconds: float) -> str:
    """Wait until a leader of a later term answers, and return its id.

    Raises:
        RequestFailed: none does within `seconds`.
    """
    end = asyncio.get_running_loop().time() + seconds
    while True:
        found: NodeStatus = await session.client.query(StatusQuery(), linearizable=True)
        if found.term > before.term and found.role == "leader":
            return found.node_id
        if asyncio.get_running_loop().time() > end:
            raise RequestFailed(FailCode.NO_LEADER, f"nobody else leads within {seconds:g} s; see `quorumbook cluster status`")
        await asyncio.sleep(POLL_SECONDS)


@cluster.command("can-stop")
@click.argument("node_id", metavar="NODE", required=False, default="")
@cluster_option
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="Use the key in this node.toml, and ask about its node unless NODE is given.",
)
@click.option("--wait", "seconds", type=Finite(min=0), default=0.0, show_default=True, help="Seconds to wait until it may.")
@json_option
def can_stop(target: Target, node_id: str, config_path: Path | None, seconds: float, as_json: bool) -> None:
    """Tell whether NODE may stop now while the others continue to serve. Exit code 0 if it may, 1 if not, 69 if no node
    answers.

    A container's preStop hook can wait for it: can-stop --config n1/node.toml --wait 30.
    """
    if config_path is not None:
        config = load(config_path)
        ask, node_id = asking(config), node_id or config.node_id
    else:
        ask = _Look(target).ask
    if not node_id:
        raise click.UsageError("Name the NODE, or its node.toml with --config.")
    with progress(f"waiting until {node_id} may stop" if seconds else "asking the nodes"):
        verdict, statuses = asyncio.run(wait_until_may_stop(ask, node_id, seconds))
    if as_json:
        print_json({"node_id": node_id, **msgspec.structs.asdict(verdict)})
    else:
        click.echo(f"{node_id} {'may stop' if verdict.may_stop else 'must not stop'}: {verdict.text}")
    if not any(statuses.values()):
        raise click.exceptions.Exit(exit_codes.UNAVAILABLE)
    if not verdict.may_stop:
        raise click.exceptions.Exit(exit_codes.FAILED)


for command in (members.members, members.add, members.remove, members.replace, levels.upgrade, levels.downgrade):
    cluster.add_command(command)


def _show_certificates(ends: Mapping[str, int]) -> None:
    """Show when the first certificate expires, highlighted if that is soon, and each expired one with its node."""
    now = time.time()
    for node_id, end in ends.items():
        if days_left(end, now) <= 0:
            text = f"the certificate of {node_id} HAS EXPIRED on {instant(end * 1_000_000_000)}; renew it: quorumbook pki renew"
            show(Text(text, style="bold red"))
    lasting = [(end, node_id) for node_id, end in ends.items() if days_left(end, now) > 0]
    if lasting:
        first, node_id = min(lasting)
        soon = days_left(first, now) < WARN_DAYS
        advice = "; renew it: quorumbook pki renew" if soon else ""
        style = "yellow" if soon else "dim"
        show(Text(f"certificates valid until {instant(first * 1_000_000_000)} ({node_id}){advice}", style=style))


class _Look:
    """Asks the nodes of a target through its directory or its addresses. It shows which configurations in the directory
    are invalid, and uses the others.
    """

    def __init__(self, target: Target) -> None:
        self._local = None if target.is_remote else LocalCluster(target.directory, leave_out_invalid=True)
        self._access = target.access() if self._local is None else None
        self.has_invalid = False
        if self._local is not None:
            _show_invalid(self._local)
            self.has_invalid = bool(self._local.layout.invalid)

    def statuses(self) -> Statuses:
        """Ask every node for its status."""
        return asyncio.run(self.ask())

    async def ask(self) -> Statuses:
        """Ask every node for its status."""
        if self._local is not None:
            return await self._local.status()
        assert self._access is not None
        return await ask_all(self._access.addresses, self._access.tls(), self._access.credentials)

    def modes(self, statuses: Statuses) -> dict[str, str]:
        """Return the modes of nodes that do not answer yet, such as migrating ones. Their engines write them into their
        pid files.
        """
        if self._local is None:
            return {}
        configs = self._local.layout.configs
        silent = [node_id for node_id, status in statuses.items() if status is None and node_id in configs]
        notes = {node_id: locked_note(configs[node_id].data_path / ENGINE_PID_FILE) for node_id in silent}
        return {node_id: note for node_id, note in notes.items() if note}

    def certificate_ends(self, statuses: Statuses) -> dict[str, int]:
        """Return when nodes' certificates expire, in seconds since the epoch. For a node that does not answer, its
        certificate is read from its directory, if that is here: an expired certificate is a reason not to answer.
        """
        ends: dict[str, int] = {}
        configs = self._local.layout.configs if self._local is not None else {}
        for node_id, found in statuses.items():
            if found is not None:
                ends[node_id] = found.certificate_expires
            elif node_id in configs:
                tls = configs[node_id].tls
                with contextlib.suppress(OSError, ValueError):
                    ends[node_id] = expiry(configs[node_id].path(tls.certificate), configs[node_id].path(tls.ca))
        return {node_id: end for node_id, end in ends.items() if end}

    def title(self, statuses: Statuses) -> str:
        """Return the cluster's name."""
        found = next((status.cluster_id for status in statuses.values() if status is not None), "")
        return found or (self._local.layout.cluster_id if self._local is not None else "")


def status_table(cluster_id: str, statuses: Statuses, modes: Mapping[str, str]) -> Table:
    """Return a table with a row for each node. A row of a node that does not answer says so, and gives the mode in
    `modes` if its engine runs.
    """
    leader = statuses.get(leader_of(statuses))
    rows = [_row(node_id, status, leader, modes.get(node_id, "")) for node_id, status in statuses.items()]
    mixed = len({status.level_abi or status.abi for status in statuses.values() if status is not None}) > 1
    title = f"cluster {cluster_id}" + (": NODES AT SEVERAL LEVELS" if mixed else "")
    return table(COLUMNS, rows, title=title, right=NUMBERS)


def _row(node_id: str, status: NodeStatus | None, leader: NodeStatus | None, mode: str) -> list[str | Text]:
    """Return the row of a node in the table of statuses."""
    if status is None:
        role = Text("starting" if mode else "unreachable", style="yellow" if mode else "bold red")
        return [node_id, mode, role, *[""] * (len(COLUMNS) - 3)]
    role = Text(_role(status), style="bold green" if status.role == "leader" else "red" if status.role == "candidate" else "")
    ready = Text("yes", style="green") if status.ready else Text("no", style="yellow")
    if not status.voter and (status.member is None or status.member.role == "voter"):
        ready.append(", no vote yet", style="yellow")
    lag = max(0, leader.commit_index - status.applied_index) if leader is not None else None
    return [
        node_id,
        Text(status.mode, style="" if status.mode == "Ready" else "yellow"),
        role,
        f"{status.term:,}",
        f"{status.commit_index:,}",
        f"{status.applied_index:,}",
        "" if lag is None else Text(f"{lag:,}", style="yellow" if lag > LAG_SHOWN else ""),
        f"{status.sequence:,}",
        status.state_hash[:12],
        f"{status.snapshot_index:,}",
        ", ".join(_seen(member) for member in status.others),
        ready,
        duration(status.uptime),
        f"{status.software.partition(' ')[0]} {status.abi[:6]}",
        f"{status.level} (rules {status.level_rules})" if status.level else status.software.partition(" ")[0],
    ]


def _role(status: NodeStatus) -> str:
    """Return the node's role. A member without a vote is not an ordinary follower."""
    member = status.member
    return status.role if member is None or member.role == "voter" else member.role.replace("_", "-")


def _seen(member: MemberStatus) -> str:
    """Return another member as text: in parentheses if it is not connected, and with the snapshot that it is receiving."""
    if not member.connected:
        return f"({member.node_id})"
    if member.clock_skew is not None and abs(member.clock_skew) > members.SKEW_SHOWN:
        return f"{member.node_id} (clock {member.clock_skew:+.1f} s)"
    if member.snapshot_size:
        return f"{member.node_id} (snapshot {100 * member.snapshot_sent // member.snapshot_size} %)"
    return member.node_id


def _leader_named(statuses: Statuses) -> str:
    return next((status.leader_id for status in statuses.values() if status is not None and status.leader_id), "nobody")


def _watch(look: _Look) -> None:
    """Show the statuses until Ctrl-C."""
    with Live(console=plain_console(), refresh_per_second=4) as live:
        try:
            while True:
                statuses = look.statuses()
                live.update(status_table(look.title(statuses), statuses, look.modes(statuses)))
                time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return


@cluster.command("rotate-key")
@place_option
@earlier_place()
@json_option
def rotate_key(target: Target, as_json: bool) -> None:
    """Give the nodes of this machine one more cluster key. Then encrypt the API keys under it: `quorumbook key reseal`.

    Running nodes load it automatically. If some nodes lack a key that others have, they get only that key.
    """
    layout = ClusterDirectory(target.directory)
    done = rotate(layout)
    elsewhere = [node_id for node_id in layout.addresses if node_id not in layout.node_ids]
    if as_json:
        print_json(
            {"cluster_key": done.number, "made": done.made, "files": [str(path) for path in done.paths], "elsewhere": elsewhere}
        )
        return
    click.echo(
        f"cluster key {done.number} {'is new' if done.made else 'existed already'}; it is in {', '.join(map(str, done.paths))}"
    )
    if elsewhere:
        click.echo(f"Copy one of these files to {', '.join(elsewhere)} before you continue.")


MODULE = "loadtest.demo"
"""The demo reaches a cluster over the network only and belongs to a higher layer, so it is started and not imported."""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the cluster running, and print how to trade on it.")
@click.option(
    "--flow",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trade the recorded order flow in this file (csv, csv.gz).",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the traders' orders.")
@click.option("--seconds", type=Finite(min=2), help="Seconds of trading.")
def demo(keep: bool, flow: Path | None, seed: int | None, seconds: float | None) -> None:
    """Start three nodes on this machine, trade, kill the leader, and check that nothing was lost, doubled or reordered.

    Exit code 0 only if every check holds. It needs nothing but this package.
    """
    if importlib.util.find_spec(MODULE) is None:
        raise click.ClickException("this installation has no load tests; the package from the wheel or the checkout has them")
    words = ["--keep"] if keep else []
    words += ["--flow", str(flow)] if flow is not None else []
    words += ["--seed", str(seed)] if seed is not None else []
    words += ["--seconds", str(seconds)] if seconds is not None else []
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *words])
