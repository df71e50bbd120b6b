"""`init`, `node start | stop`, `version`."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from node.cli.output import print_json
from node.cli.program import Commands
from node.cli.target import Finite, json_option
from node.config.checks import advice
from node.config.file import load
from node.data_directory import identity
from node.deployment.setup import Host, initialise, is_loopback
from node.deployment.statuses import asking
from node.diagnosis.health import wait_until_may_stop
from node.engine.modes import Mode
from node.errors import NodeStartError
from node.gateway import CODE
from node.keys.encryption import read_keys
from node.supervisor import run_or_explain
from node.system import software, stop_times
from node.system.processes import ENGINE_PID_FILE, PID_FILE, locked_note, locked_pid, send
from snapshots.abi import ABI
from snapshots.levels.level import SUPPORTED
from statemachine import CORE
from statemachine.rules import RULES

STOP_POLL = 0.02


def _hosts(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> list[Host]:
    """Parse the nodes of `--node n1=HOST`."""
    found = []
    for text in texts:
        node_id, equals, host = text.partition("=")
        if not (node_id and equals and host):
            raise click.BadParameter(f"expected NODE=HOST, such as n1=10.0.0.1, not {text!r}")
        found.append(Host(node_id, host.strip("[]")))
    return found


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--nodes", type=click.Choice(["1", "3", "5"]), default=None, help="Number of nodes, all on --host. [default: 3]")
@click.option(
    "--node",
    "named",
    multiple=True,
    metavar="NODE=HOST",
    callback=_hosts,
    help="A node and its host, e.g. n1=10.0.0.1; repeat for each node.",
)
@click.option("--hosts", default="", metavar="HOST,...", help="The hosts of n1, n2, ..., separated by commas, instead of --node.")
@click.option("--base-port", type=click.IntRange(1024, 65_000), default=7000, show_default=True, help="The first port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The host of all nodes.")
@click.option(
    "--listen", default="", metavar="ADDRESS", help="The address on which every node listens, e.g. 0.0.0.0. Default: its host."
)
@click.option(
    "--https/--http", "https", default=None, help="Serve HTTPS with the nodes' certificates. Default: unless all are on loopback."
)
@click.option("--cluster-id", default="", help="The cluster's id, different for each cluster. Default: a random one.")
@click.option(
    "--cluster-key",
    "cluster_key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Use the cluster keys in this file, of the cluster whose backup or export this one will begin with. Default: a new key.",
)
@click.option("--archive-log", is_flag=True, help="Keep old log segments: `quorumbook audit` needs the log from its first entry.")
@click.option("--fix", is_flag=True, help="Serve FIX, on each node's HTTP port + 10; see docs/fix.md.")
@json_option
def init(
    directory: Path,
    nodes: str | None,
    named: list[Host],
    hosts: str,
    base_port: int,
    host: str,
    listen: str,
    https: bool | None,
    cluster_id: str,
    cluster_key: Path | None,
    archive_log: bool,
    fix: bool,
    as_json: bool,
) -> None:
    """Make a cluster in DIRECTORY: keys, certificates, a configuration and a data directory for each node.

    On several machines: init exchange --node n1=10.0.0.1 --node n2=10.0.0.2 --node n3=10.0.0.3, then move each node's
    directory to its machine.
    """
    if (nodes is not None) + bool(named) + bool(hosts) > 1:
        raise click.UsageError("Give only one of --nodes, --node and --hosts.")
    chosen = named or [Host(f"n{number}", each.strip()) for number, each in enumerate(hosts.split(","), 1) if hosts]
    chosen = chosen or [Host(f"n{number}", host) for number in range(1, int(nodes or "3") + 1)]
    secure = not all(is_loopback(each.host) for each in chosen) if https is None else https
    paths = initialise(
        directory,
        chosen,
        base_port=base_port,
        listen=listen,
        https=secure,
        cluster_id=cluster_id,
        archive_log=archive_log,
        fix=fix,
        cluster_keys=read_keys(cluster_key) if cluster_key is not None else None,
    )
    configs = [load(path) for path in paths]
    if as_json:
        print_json({config.node_id: config.address(config.node_id) for config in configs})
        return
    for path, config in zip(paths, configs, strict=True):
        address = config.address(config.node_id)
        click.echo(f"{path}: {config.node_id}, native {address.native}, http {address.http}")
    key = directory / "admin.json"
    if len({each.host for each in chosen}) > 1:
        moved = shlex.quote(f"{directory.name}/NODE/node.toml")
        click.echo(f"Move each node's directory to its machine, and start it there: quorumbook node start --config {moved}")
        click.echo(f"The operator's key is in {key}, and enough to reach the cluster: --cluster {shlex.quote(str(key))}")
    else:
        click.echo(f"The operator's key is in {key}. Start with: quorumbook cluster up --cluster {shlex.quote(str(directory))}")
    if not secure and not all(is_loopback(each.host) for each in chosen):
        click.echo(
            "note: HTTP is not encrypted, so prices, orders and key ids can be read on the network; --https serves HTTPS",
            err=True,
        )


@click.group(cls=Commands)
def node() -> None:
    """One node: check its configuration, start it in the foreground, stop it gracefully."""


@node.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's node.toml.")
@click.option("--rejoin", is_flag=True, help="The data directory was lost: come back without a vote until caught up.")
def start(path: Path, rejoin: bool) -> None:
    """Run a node until SIGTERM or Ctrl-C. Exit code 70: its state is in doubt; read the log before another start."""
    sys.exit(run_or_explain(path, rejoin=rejoin))


@node.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's node.toml.")
@click.option(
    "--force",
    is_flag=True,
    help="Stop even if the exchange cannot continue, such as the last nodes of a cluster that is shut down.",
)
@click.option(
    "--wait",
    "seconds",
    type=Finite(min=0),
    default=0.0,
    show_default=True,
    help="Seconds to wait until the node may stop.",
)
def stop(path: Path, force: bool, seconds: float) -> None:
    """Stop a running node gracefully: it rejects commands, transfers leadership, writes a snapshot, and ends.

    A node that the exchange needs is not stopped (see `cluster can-stop`), unless --force is given or no leader serves
    anyway. Exit code 1 then, and also if the node did not end in time; in that case it is still stopping.
    """
    config = load(path)
    pid_file = config.data_path / PID_FILE
    pid = locked_pid(pid_file)
    if pid is None:
        click.echo(f"{config.node_id} is not running")
        return
    if not force:
        verdict, _ = asyncio.run(wait_until_may_stop(asking(config), config.node_id, seconds))
        if not verdict.may_stop and not verdict.stands_still:
            raise NodeStartError(f"{config.node_id} is not stopped: {verdict.text}. --force stops it anyway")
    started = time.monotonic()
    send(pid, signal.SIGTERM)
    while locked_pid(pid_file) == pid:
        if time.monotonic() - started > stop_times.NODE:
            raise NodeStartError(f"{config.node_id} (pid {pid}) has not stopped within {stop_times.NODE:g} s")
        time.sleep(STOP_POLL)
    click.echo(f"{config.node_id} has stopped, after {time.monotonic() - started:.1f} s")


@node.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's node.toml.")
def alive(path: Path) -> None:
    """Tell whether the node is alive, for a container's health check. Exit code 1 if its engine neither answers nor
    reads its data at a start.
    """
    config = load(path)
    status = asyncio.run(asking(config)()).get(config.node_id)
    mode = status.mode if status is not None else locked_note(config.data_path / ENGINE_PID_FILE)
    if status is None and mode not in (Mode.STARTED, Mode.BOOTSTRAPPING):
        raise NodeStartError(f"the engine of {config.node_id} does not answer")
    click.echo(f"{config.node_id}: {mode}")


@node.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's node.toml.")
@json_option
def check(path: Path, as_json: bool) -> None:
    """Check a node's configuration, certificate and keys, and the identity of its data directory, as a start does,
    without starting. It also reports settings that are probably not intended.
    """
    config = load(path)
    identity.check_usable(config)
    lines = advice(config, path)
    if as_json:
        print_json({"node_id": config.node_id, "cluster_id": config.cluster_id, "advice": lines})
        return
    for line in lines:
        click.echo(f"note: {line}", err=True)
    click.echo(f"{path}: {config.node_id} of {config.cluster_id} can start")


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the version, the commit, the ABI (the checksum of everything that is stored or sent), and what runs compiled."""
    if as_json:
        print_json(
            {
                "version": software.version(),
                "commit": software.commit(),
                "abi": ABI,
                "core": CORE,
                "gateway": CODE,
                "rules": RULES,
                "levels": SUPPORTED,
            }
        )
    else:
        click.echo(f"quorumbook {software.title()}, ABI {ABI}, core: {CORE}, gateway: {CODE}")
        click.echo(f"rules {RULES}; runs at the levels {', '.join(level.version for level in SUPPORTED)}")
