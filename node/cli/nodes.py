"""`init`, `node start | stop`, `version`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click

from node import software, stop_times
from node.cli.output import print_json
from node.cli.session import json_option
from node.config.file import load
from node.deployment.setup import initialise
from node.errors import NodeStartError
from node.keys.sealing import read_keys
from node.supervisor import run_or_explain
from node.system.processes import PID_FILE, locked_pid, send
from snapshots.abi import ABI

STOP_POLL = 0.02


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--nodes", type=click.Choice(["1", "3", "5"]), default="3", show_default=True, help="How many nodes.")
@click.option(
    "--base-port", type=click.IntRange(1024, 65_000), default=7000, show_default=True, help="Ports are counted from here."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the nodes listen.")
@click.option("--cluster-id", default="", help="A name of its own for each cluster. Default: a random one.")
@click.option(
    "--cluster-key",
    "cluster_key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take the cluster keys in this file, of the cluster whose backup or export this one will begin with. Default: a fresh one.",
)
@click.option("--archive-log", is_flag=True, help="Keep old log segments: `quorumbook audit` needs the log from its first entry.")
def init(
    directory: Path, nodes: str, base_port: int, host: str, cluster_id: str, cluster_key: Path | None, archive_log: bool
) -> None:
    """Make a cluster in DIRECTORY: keys, certificates, a configuration and a data directory for each node."""
    keys = read_keys(cluster_key) if cluster_key is not None else None
    paths = initialise(
        directory,
        int(nodes),
        base_port=base_port,
        host=host,
        cluster_id=cluster_id,
        archive_log=archive_log,
        cluster_keys=keys,
    )
    for path in paths:
        config = load(path)
        address = config.address(config.node_id)
        click.echo(f"{path}: {config.node_id}, native {address.native}, http {address.http}")
    click.echo(f"The operator's key is in {directory / 'admin.json'}. Start with: quorumbook cluster up {directory}")


@click.group()
def node() -> None:
    """One node: start it in the foreground, stop it in order."""


@node.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's node.toml.")
@click.option("--rejoin", is_flag=True, help="The data directory was lost: come back without a vote until caught up.")
def start(path: Path, rejoin: bool) -> None:
    """Run a node until SIGTERM or Ctrl-C. Exit code 70: its state is in doubt, do not start it again before reading why."""
    sys.exit(run_or_explain(path, rejoin=rejoin))


@node.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's node.toml.")
def stop(path: Path) -> None:
    """Stop a running node in order: it refuses commands, hands leadership over, writes a snapshot, and ends.

    Exit code 1 if it did not end in time; it goes on stopping then.
    """
    config = load(path)
    pid_file = config.data_path / PID_FILE
    pid = locked_pid(pid_file)
    if pid is None:
        click.echo(f"{config.node_id} is not running")
        return
    started = time.monotonic()
    send(pid, signal.SIGTERM)
    while locked_pid(pid_file) == pid:
        if time.monotonic() - started > stop_times.NODE:
            raise NodeStartError(f"{config.node_id} (pid {pid}) has not stopped within {stop_times.NODE:g} s")
        time.sleep(STOP_POLL)
    click.echo(f"{config.node_id} has stopped, after {time.monotonic() - started:.1f} s")


@click.command()
@json_option
def version(as_json: bool) -> None:
    """The version and commit of the software, and the ABI: the checksum of everything that is stored or sent."""
    if as_json:
        print_json({"version": software.version(), "commit": software.commit(), "abi": ABI})
    else:
        click.echo(f"quorumbook {software.title()}, ABI {ABI}")
