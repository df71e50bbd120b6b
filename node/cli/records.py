"""`log export`, `audit`: what the nodes have on disk."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.text import Text

from cluster.errors import LogDamagedError
from cluster.log import command_of, read_segments
from node.audit import AuditReport, audit_directory, audit_running, log_directories
from node.cli.output import plain, print_json, show, table
from node.cli.session import json_option
from node.config_file import load
from node.errors import DirectoryError
from node.local_cluster import LocalCluster
from statemachine.commands import PutApiKey, decode_batch

DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def log() -> None:
    """The replicated log of commands."""


@log.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--node", "node_id", help="Which node's log, where DIRECTORY is a cluster's. Default: the first.")
@click.option("--from", "first", type=click.IntRange(min=0), default=0, help="First index.")
@click.option("--to", "last", type=click.IntRange(min=0), default=sys.maxsize, help="Last index.")
@click.option("--secrets", is_flag=True, help="Print the secrets of API keys too.")
def export(directory: Path, node_id: str | None, first: int, last: int, secrets: bool) -> None:
    """Print the commands in a node's log, old segments included, as JSON lines: index, term, time (ns), command and its fields.

    The log of a node that runs may end with entries that are not committed yet.
    """
    path = _node_config(directory, node_id)
    encode = msgspec.json.Encoder().encode
    for line in export_lines(path, first, last, secrets=secrets):
        click.echo(encode(line))


def export_lines(path: Path, first: int, last: int, *, secrets: bool = False) -> Iterator[dict[str, object]]:
    """The commands of the node configured at `path`, in order, as what JSON can carry.

    Raises:
        DirectoryError: the log is damaged, or holds something else.
    """
    try:
        for entry in read_segments(*log_directories(load(path))):
            payload = command_of(entry)
            if payload is None or not first <= entry.index <= last:
                continue
            batch = decode_batch(payload)
            for command in batch.commands:
                if isinstance(command, PutApiKey) and not secrets:
                    command = msgspec.structs.replace(command, secret="", passphrase="")
                fields = plain(command)
                assert isinstance(fields, dict)
                yield {"index": entry.index, "term": entry.term, "time": batch.time, "command": type(command).__name__, **fields}
    except LogDamagedError as error:
        raise DirectoryError(str(error)) from error
    except msgspec.DecodeError as error:
        raise DirectoryError(f"{path.parent}: an entry is not a batch of commands: {error}") from error


def _node_config(directory: Path, node_id: str | None) -> Path:
    """The configuration of the node that is meant."""
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
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--acks", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="What clients were told, as JSON lines."
)
@click.option("--offline", is_flag=True, help="Do not ask the nodes for their state hashes.")
@json_option
def audit(directory: Path, acks: Path | None, offline: bool, as_json: bool) -> None:
    """Read the nodes' logs, apply every command again, and compare with what clients and nodes say.

    Exit code 1 on any difference. Nodes that are down are audited by their logs alone. Needs raft.archive_log = true.
    """
    local = LocalCluster(directory)
    running = [] if offline else local.running()
    statuses = (
        {node_id: status for node_id, status in asyncio.run(local.status()).items() if node_id in running} if running else None
    )
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
