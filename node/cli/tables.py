"""`export`, `import`: the whole state as TSV files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from node.cli.output import print_json, working
from node.cli.records import DIRECTORY, node_config_path
from node.cli.target import Target, earlier_place, json_option, place_option
from node.cluster_directory import ClusterDirectory
from node.config.file import load
from node.records.backup import unusable_keys
from node.records.exporting import export_tables, import_tables, is_running, snapshot_now
from statemachine.engine import Engine


@click.command("export")
@click.argument("destination", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@place_option
@earlier_place("--from", "--from")
@click.option("--node", "node_id", help="Which node's state. Default: the first.")
@json_option
def export_state(destination: Path, target: Target, node_id: str | None, as_json: bool) -> None:
    """Write the whole state of a node into DIR, a TSV file a table. The secrets of API keys are in it, encrypted.

    A running node takes a snapshot for it, so that all tables are of one index; of a stopped one its newest snapshot is
    written.
    """
    config = load(node_config_path(target.directory, node_id))
    with working(f"{config.node_id}: snapshot and tables"):
        if is_running(config):
            asyncio.run(snapshot_now(config))
        manifest, rows = export_tables(config, destination)
    if as_json:
        print_json({"node_id": config.node_id, "index": manifest.index, "sequence": manifest.sequence, "rows": rows})
        return
    click.echo(
        f"{config.node_id} at index {manifest.index:,}, sequence {manifest.sequence:,}, hash {manifest.full_hash.hex()[:16]}"
    )
    click.echo(", ".join(f"{name} {count:,}" for name, count in rows.items()))


def warn_of_keys(engine: Engine, layout: ClusterDirectory) -> None:
    """Say which API keys the nodes of a new cluster could not use."""
    lost = unusable_keys(engine, layout)
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        click.echo(
            f"API keys {', '.join(lost[:3])}{more} are encrypted under cluster keys that these nodes do not have: put the old cluster's cluster.key "
            "in the place of theirs before they start",
            err=True,
        )


@click.command("import")
@click.argument("source", metavar="DIR", type=DIRECTORY)
@place_option
@earlier_place("--into", "--into")
@json_option
def import_state(source: Path, target: Target, as_json: bool) -> None:
    """Let a new cluster, which has never run, begin with the state in the TSV files of DIR. Everything is checked
    before anything is written.
    """
    layout = ClusterDirectory(target.directory)
    with working("the tables are checked and written"):
        engine = import_tables(source, layout)
    warn_of_keys(engine, layout)
    if as_json:
        print_json({"nodes": layout.node_ids, "sequence": engine.sequence, "hash": engine.full_hash()})
        return
    click.echo(f"{', '.join(layout.node_ids)} begin with sequence {engine.sequence:,}, hash {engine.full_hash().hex()[:16]}")
