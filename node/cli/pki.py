"""`pki show | renew | roll`: certificates and the authority that signs them."""

from __future__ import annotations

import asyncio
import datetime
import time

import click
from rich.text import Text

from node.cli.output import instant, print_json, progress, show, table
from node.cli.program import Commands
from node.cli.target import Target, json_option, place_option
from node.cluster_directory import ClusterDirectory
from node.deployment.local_cluster import LocalCluster
from node.deployment.renewing import Held, begin_roll, certificates_of, finish_roll, renew
from node.deployment.statuses import Statuses
from node.errors import DirectoryError
from node.tls.certificates import WARN_DAYS, Validity, days_left
from statemachine.limits import SECOND_NS

POLL_SECONDS = 0.25
TAKE_UP_SECONDS = 30.0
"""Seconds for running nodes to load a renewed certificate; they check every few seconds."""


@click.group(cls=Commands)
def pki() -> None:
    """Certificates: show how long they are valid, renew them, change the authority."""


@pki.command("show")
@place_option
@json_option
def show_certificates(target: Target, as_json: bool) -> None:
    """Show how long the certificates of the authority and the nodes are valid. "in use": when the certificate of the
    running node expires.
    """
    local = LocalCluster(target.directory)
    statuses = asyncio.run(local.status())
    certificates = certificates_of(local.layout)
    now = time.time()
    if as_json:
        print_json([_view(each, statuses) for each in certificates])
        return
    rows: list[list[str | Text]] = []
    for each in certificates:
        left = days_left(each.validity.ends, now)
        style = "bold red" if left <= 0 else "yellow" if left < WARN_DAYS else ""
        used = _in_use(each.place, statuses)
        rows.append(
            [
                each.place,
                each.validity.subject,
                instant(each.validity.ends * SECOND_NS),
                Text(f"{left:,.0f}", style=style),
                instant(used * SECOND_NS) if used else "",
                Text("yes", style="green") if each.trusted else Text("no", style="bold red"),
            ]
        )
    columns = ("of", "subject", "ends", "days left", "in use", "trusted")
    show(table(columns, rows, title=f"certificates of {local.layout.cluster_id}", right=("days left",)))


def _view(each: Held, statuses: Statuses) -> dict[str, object]:
    return {"of": each.place, **_times(each.validity), "in_use_ends": _in_use(each.place, statuses), "trusted": each.trusted}


def _times(found: Validity) -> dict[str, object]:
    return {"subject": found.subject, "serial": found.serial, "begins": found.begins, "ends": found.ends}


def _in_use(node_id: str, statuses: Statuses) -> int:
    status = statuses.get(node_id)
    return status.certificate_expires if status is not None else 0


@pki.command("renew")
@place_option
@click.option(
    "--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may repeat. Default: all nodes of the directory."
)
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=3650,
    show_default=True,
    help="Validity, at most until the authority expires.",
)
@json_option
def renew_certificates(target: Target, nodes: tuple[str, ...], days: int, as_json: bool) -> None:
    """Give the nodes new keys and certificates, for the hosts that they have. Nodes that run here load them within
    seconds, without a restart.

    Needs ca.key in the cluster's directory. A node on another machine loads them when node.pem and node.key are copied
    there.
    """
    local = LocalCluster(target.directory)
    chosen = _chosen(local.layout, nodes)
    renewed = renew(local.layout, chosen, datetime.datetime.now(datetime.UTC), datetime.timedelta(days=days))
    running = [node_id for node_id in local.running() if node_id in renewed]
    with progress("running nodes load them"):
        waiting = asyncio.run(_taken_up(local, {node_id: renewed[node_id] for node_id in running}))
    if as_json:
        taken = [node_id for node_id in running if node_id not in waiting]
        print_json(
            {"renewed": {node_id: _times(validity) for node_id, validity in renewed.items()}, "in_use": taken, "waiting": waiting}
        )
        return
    for node_id, validity in renewed.items():
        state = "" if node_id not in running else ", not in use yet: see its log" if node_id in waiting else ", in use"
        click.echo(f"{node_id}: valid until {instant(validity.ends * SECOND_NS)}{state}")
    if waiting:
        raise click.exceptions.Exit(1)


async def _taken_up(local: LocalCluster, made: dict[str, Validity]) -> list[str]:
    """Wait until running nodes have their new certificates. Returns the nodes that do not have them in time."""
    end = time.monotonic() + TAKE_UP_SECONDS
    waiting = list(made)
    while waiting:
        statuses = await local.status()
        waiting = [node_id for node_id in waiting if _in_use(node_id, statuses) != made[node_id].ends]
        if time.monotonic() > end:
            break
        await asyncio.sleep(POLL_SECONDS)
    return waiting


def _chosen(layout: ClusterDirectory, nodes: tuple[str, ...]) -> list[str]:
    unknown = [node_id for node_id in nodes if node_id not in layout.node_ids]
    if unknown:
        raise DirectoryError(f"no node {', '.join(unknown)} in {layout.directory}; there are: {', '.join(layout.node_ids)}")
    return list(nodes) or layout.node_ids


@pki.command("roll")
@place_option
@click.option(
    "--begin", "step", flag_value="begin", help="Make another authority, which the nodes trust in addition to the present one."
)
@click.option(
    "--finish", "step", flag_value="finish", help="Remove the former authority, once all nodes have renewed certificates."
)
@json_option
def roll_authority(target: Target, step: str | None, as_json: bool) -> None:
    """Change the certificate authority while the cluster runs: --begin, then `pki renew`, then --finish.

    Between the steps copy ca.pem, node.pem and node.key to nodes on other machines, and wait until `pki show` names
    them in use. Running nodes trust the former authority until they are restarted.
    """
    layout = ClusterDirectory(target.directory)
    if step == "begin":
        validity = begin_roll(layout, datetime.datetime.now(datetime.UTC))
        until = instant(validity.ends * SECOND_NS)
        text = f"another authority is trusted by {', '.join(layout.node_ids)}, valid until {until}. Next: quorumbook pki renew"
        result: dict[str, object] = _times(validity)
    elif step == "finish":
        nodes = finish_roll(layout)
        text = f"the former authority was removed from the files of {', '.join(nodes)}; restart the nodes one by one: until then they trust it"
        result = {"nodes": nodes}
    else:
        raise click.UsageError("Name the step: --begin or --finish.")
    if as_json:
        print_json(result)
    else:
        click.echo(text)
