"""`bundle`: what all nodes have to say, for somebody who is to help."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path

import click

from node.cli import session
from node.cli.output import print_json, progress
from node.cli.target import Target, cluster_option, json_option
from node.cluster_directory import ClusterDirectory
from node.diagnosis.bundle import LOG_BYTES, Bundle

MIB = 1024 * 1024


@click.command()
@cluster_option
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The archive. [default: quorumbook-bundle-TIME.tar.gz]"
)
@click.option(
    "--log-mib",
    type=click.IntRange(1, 1024),
    default=LOG_BYTES // MIB,
    show_default=True,
    help="Of each node's log so many MiB, its end.",
)
@json_option
def bundle(target: Target, output: Path | None, log_mib: int, as_json: bool) -> None:
    """Collect what all nodes have to say into one archive, without secrets, with a list of what is in it.

    Of every node: status and metrics. Of the nodes on this machine besides: settings, the end of the log, stacks of the
    processes, what the system says of them, names and sizes of files, and the doctor's findings. Nodes that are down
    are no obstacle.
    """
    access = session.reach(target)
    layout = None if target.is_remote else ClusterDirectory(target.directory)
    now = datetime.datetime.now(datetime.UTC)
    path = output or Path(f"quorumbook-bundle-{now:%Y%m%dT%H%M%SZ}.tar.gz")
    if path.exists():
        raise click.ClickException(f"{path} is there already; name another file with --output")
    with progress("collecting", None) as shown:
        made = Bundle(access.addresses, access.tls(), access.credentials, layout, tell=shown.step, log_bytes=log_mib * MIB)
        asyncio.run(made.collect())
        manifest = made.write(path, now)
    missing = [entry for entry in manifest.files if entry.missing]
    if as_json:
        print_json({"path": str(path), "manifest": manifest})
        return
    click.echo(f"{path}: {len(manifest.files) - len(missing)} files, {path.stat().st_size / MIB:.1f} MiB")
    for entry in missing:
        click.echo(f"not in it: {entry.name}: {entry.missing}")
    click.echo(f"Left out: {manifest.left_out}. Look through it before you give it away: manifest.json lists the files.")
