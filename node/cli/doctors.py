"""`doctor`: what is wrong with the nodes of this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.text import Text

from node.cli.output import Progress, print_json, progress, show, table
from node.cli.target import Target, json_option, place_option
from node.config.file import load
from node.deployment.statuses import Statuses, asking
from node.diagnosis.doctor import Doctor
from node.diagnosis.findings import Finding, Level, worst
from node.errors import ConfigError, DirectoryError

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red", Level.UNKNOWN: "magenta"}
STEPS = 10
"""What a doctor tells of one node while it works."""


@click.command()
@place_option
@click.option("--config", "path", type=click.Path(path_type=Path), help="Only the node of this node.toml.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; may be given several times.")
@click.option("--deep", is_flag=True, help="Also read every row of the snapshots, as a start does.")
@click.option("--all", "everything", is_flag=True, help="Show what is well, too.")
@json_option
def doctor(target: Target, path: Path | None, nodes: tuple[str, ...], deep: bool, everything: bool, as_json: bool) -> None:
    """Look for what is wrong with the nodes of this machine, whether they run or not, and say what to do.

    Looks at configuration, limits, versions, certificates, data directory, ports, other nodes, disk space, the speed of
    fsync, the clock, log and snapshots. Exit code: 0 all is well, 1 something needs attention, 2 a node cannot run, or
    not for long.
    """
    paths = [path] if path is not None else _paths(target.directory, nodes)
    findings: list[Finding] = []
    with progress("looking", STEPS * len(paths)) as shown:
        for each in paths:
            findings += _examine(each, deep, shown)
    level = worst(findings)
    if as_json:
        print_json({"level": level, "findings": findings})
    else:
        _show(findings, everything)
    raise click.exceptions.Exit(min(level, Level.CRITICAL))


def _paths(directory: Path, nodes: tuple[str, ...]) -> list[Path]:
    """The configurations in a cluster's directory. They are found without being read: one of them may be wrong.

    Raises:
        DirectoryError: there are none, or not those that were named.
    """
    found = {path.parent.name: path for path in sorted(directory.glob("*/node.toml"))}
    if not found:
        raise DirectoryError(f"{directory}: no node in it (expected {directory}/n1/node.toml); name a node.toml with --config")
    if unknown := [node for node in nodes if node not in found]:
        raise DirectoryError(f"no node {', '.join(unknown)} in {directory}; there are: {', '.join(found)}")
    return [found[node] for node in nodes] or list(found.values())


def _examine(path: Path, deep: bool, shown: Progress) -> list[Finding]:
    statuses: Statuses = {}
    name = path.resolve().parent.name
    try:
        config = load(path)
        name = config.node_id
        statuses = asyncio.run(asking(config)())
    except (ConfigError, OSError):
        pass  # the doctor says what is wrong with it
    return Doctor(path, status=statuses.get(name), deep=deep, tell=lambda what: shown.step(f"{name}: {what}")).examine()


def _show(findings: list[Finding], everything: bool) -> None:
    bad = [finding for finding in findings if finding.level]
    rows: list[list[str | Text]] = [
        [finding.node_id, finding.check, Text(finding.level.name, style=STYLES[finding.level]), finding.text, finding.advice]
        for finding in (findings if everything else bad)
    ]
    if rows:
        show(table(("node", "check", "level", "found", "what to do"), rows))
    well = len(findings) - len(bad)
    click.echo(f"{well} of {len(findings)} checks found nothing wrong" if bad else f"all {well} checks found nothing wrong")
