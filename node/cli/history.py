"""`history status | archive`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec

from node.cli.output import instant, print_json, progress, show, table
from node.cli.program import Commands
from node.cli.target import Target, cluster_option, json_option
from node.config.settings import NodeConfig
from node.deployment.local_cluster import LocalCluster
from node.errors import HistoryError

COLUMNS = ("node", "database", "log entry", "sequence", "up to", "behind", "gaps")
NUMBERS = ("log entry", "sequence", "behind", "gaps")


class Standing(msgspec.Struct, frozen=True):
    """The state of a node's history. `behind`: commands that the node has applied and the history lacks; -1 if the node
    does not answer. `fault`: why its database cannot be read, or "".
    """

    node_id: str
    database: str
    log_index: int
    sequence: int
    time: int
    behind: int
    gaps: list[dict[str, object]]
    fault: str = ""


@click.group(cls=Commands)
def history() -> None:
    """The market database of a node, if history.enabled is true."""


@history.command()
@cluster_option
@json_option
def status(target: Target, as_json: bool) -> None:
    """Show how far the histories of the nodes on this machine go, and which entries they lack.

    Exit code 1 if a database cannot be read; the others are shown nevertheless.
    """
    local = LocalCluster(target.directory)
    kept = [config for config in local.layout.configs.values() if config.history.enabled]
    if not kept:
        raise HistoryError("no node here keeps a history: set history.enabled = true in its node.toml and start it again")
    statuses = asyncio.run(local.status())
    sequences = {node_id: found.sequence for node_id, found in statuses.items() if found is not None}
    with ThreadPoolExecutor(len(kept)) as threads:  # a server that is down takes seconds to answer
        standings = list(threads.map(lambda config: _standing_or_fault(config, sequences.get(config.node_id)), kept))
    if as_json:
        print_json(standings)
    else:
        _show(standings, local.layout.cluster_id)
    faults = [f"{each.node_id}: {each.fault}" for each in standings if each.fault]
    if faults:
        raise HistoryError("; ".join(faults))


def _show(standings: list[Standing], cluster_id: str) -> None:
    """Print a row for each node: how far its history is, and how many gaps it has."""
    rows = [
        [
            each.node_id,
            each.database,
            "unreadable" if each.fault else f"{each.log_index:,}",
            "" if each.fault else f"{each.sequence:,}",
            instant(each.time) if each.time else "",
            f"{each.behind:,}" if each.behind >= 0 else "",
            "" if each.fault else str(len(each.gaps)),
        ]
        for each in standings
    ]
    show(table(COLUMNS, rows, title=f"histories of {cluster_id}", right=NUMBERS))


@contextlib.contextmanager
def _database() -> Iterator[None]:
    """Report a database that cannot be used in one line.

    Raises:
        HistoryError: the database cannot be used.
    """
    from sqlalchemy.exc import SQLAlchemyError  # the import takes a moment that other commands should not pay for

    try:
        yield
    except SQLAlchemyError as error:
        raise HistoryError(f"the history's database cannot be used: {str(error).splitlines()[0]}") from error


def _standing_or_fault(config: NodeConfig, sequence: int | None) -> Standing:
    """Return how far the history of a node goes, or why it cannot be read."""
    from node.history.database import place

    try:
        with _database():
            return _standing(config, sequence)
    except HistoryError as error:
        return Standing(config.node_id, place(config), 0, 0, 0, -1, [], str(error))


def _standing(config: NodeConfig, sequence: int | None) -> Standing:
    """Return how far the history of a node goes."""
    from node.history.queries import HistoryReader

    found = HistoryReader(config)
    try:
        place = found.progress()
        gaps = found.gaps() if place.log_index else []
    finally:
        found.close()
    behind = -1 if sequence is None else max(0, sequence - place.sequence)
    missing = [msgspec.structs.asdict(gap) for gap in gaps]
    return Standing(config.node_id, found.place, place.log_index, place.sequence, place.time, behind, missing)


@history.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's node.toml.")
@click.option(
    "--before", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The first day that stays in the database (UTC)."
)
@json_option
def archive(path: Path, before: datetime.datetime, as_json: bool) -> None:
    """Move the days before DATE to Parquet files in data/history/parquet. Candles and open orders stay."""
    from node.config.file import load
    from node.history.partitions import archive_days

    with _database(), progress("old days are looked for") as shown:
        moved = archive_days(load(path), before.date(), shown.stage)
    if as_json:
        print_json(moved)
        return
    for each in moved:
        click.echo(f"{each.file}: {each.rows:,} rows")
    click.echo(f"{sum(each.rows for each in moved):,} rows in {len(moved)} files")
