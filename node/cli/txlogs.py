"""`txlog export | import | show | replay`: the commands of a cluster, and the state at any of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.text import Text

from node.cli.output import instant, plain, print_json, show, table
from node.cli.records import node_config_path
from node.cli.session import json_option
from node.config.file import load
from node.config.settings import NodeConfig
from node.records import txlog as logs
from node.records.exporting import newest_state
from node.system import files
from snapshots.errors import NoSnapshotError
from snapshots.manifest import Manifest
from snapshots.tsv_values import time_text
from statemachine.commands import Batch
from statemachine.engine import Engine

SOURCE = click.Path(path_type=Path, exists=True)
node_option = click.option(
    "--node", "node_id", help="Which node's log, where SOURCE is a cluster's directory. Default: the first."
)


@click.group("txlog")
def txlog() -> None:
    """Transaction logs. SOURCE is a node's or a cluster's directory, or a file that `txlog export` wrote."""


def _opened(source: Path, node_id: str | None) -> tuple[logs.Txlog, NodeConfig | None]:
    if source.is_file():
        return logs.of_file(source), None
    config = load(node_config_path(source, node_id))
    return logs.of_node(config), config


@txlog.command("export")
@click.argument("source", type=SOURCE)
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default="-")
@node_option
@click.option("--without-secrets", is_flag=True, help="Leave out the secrets of API keys. Hashes will differ then.")
def export_log(source: Path, target: Path, node_id: str | None, without_secrets: bool) -> None:
    """Write the log into the new FILE (default: the standard output) as JSON lines, an entry a line.

    The log of a node that runs may end with entries that are not committed yet.
    """
    lines = logs.to_lines(_opened(source, node_id)[0], secrets=not without_secrets)
    if str(target) == "-":
        for line in lines:
            click.echo(line)
        return
    files.write_lines(target, lines, 0o600)
    click.echo(f"{target} is written")


@txlog.command("import")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def import_log(source: Path, target: Path) -> None:
    """Write JSON lines back as log segments, into the new directory DIR."""
    click.echo(f"{logs.write_log(target, logs.of_file(source)):,} entries in {target}")


@txlog.command("show")
@click.argument("source", type=SOURCE)
@node_option
@click.option("--from", "first", type=click.IntRange(min=0), default=0, help="First index.")
@click.option("--to", "last", type=click.IntRange(min=0), help="Last index.")
def show_log(source: Path, node_id: str | None, first: int, last: int | None) -> None:
    """Print the commands for a person, the secrets of API keys left out."""
    log, _ = _opened(source, node_id)
    show(table(("index", "term", "time", "command", "account", "id", "what"), _rows(log, first, last), right=("index", "term")))


def _rows(log: logs.Txlog, first: int, last: int | None) -> Iterator[list[str | Text]]:
    hidden = ("account_id", "command_id", "secret", "passphrase")
    for entry in log.entries:
        if last is not None and entry.index > last:
            return
        if entry.index < first:
            continue
        head = [f"{entry.index}", f"{entry.term}", instant(entry.batch.time)]
        if not entry.batch.commands:
            yield [*head, "-", "", "", "time passes: orders may expire"]
        for command in entry.batch.commands:
            fields = plain(command)
            assert isinstance(fields, dict)
            what = " ".join(f"{name}={value}" for name, value in fields.items() if name not in hidden and value not in ("", 0))
            yield [*head, type(command).__name__, command.account_id, command.command_id, what]


class ReplayResult(msgspec.Struct, frozen=True):
    """What `txlog replay` found. `agrees`: with the node's snapshot at the same command; None where there is none to compare with."""

    sequence: int
    index: int
    clock: str
    state_hash: str
    full_hash: str
    within_entry: bool
    compared_with: str
    agrees: bool | None


@txlog.command("replay")
@click.argument("source", type=SOURCE)
@node_option
@click.option("--until", type=click.IntRange(min=0), help="Number of the last command to apply. Default: all.")
@click.option("--freeze-clock", is_flag=True, help="Leave the exchange's clock at that command; else it goes on to the present.")
@click.option("--diff", is_flag=True, help="Show the rows that differ from the node's newest snapshot.")
@json_option
def replay_log(source: Path, node_id: str | None, until: int | None, freeze_clock: bool, diff: bool, as_json: bool) -> None:
    """Build the state at a command from the log alone, check it, and compare its hash with the node's snapshot.

    Exit code 1 if it is another one.
    """
    log, config = _opened(source, node_id)
    snapshot = _snapshot(config)
    rebuilt = logs.rebuild(log, until, base=_base(log, snapshot, until))
    engine = rebuilt.engine
    engine.check()
    manifest = snapshot[0] if snapshot else None
    same_place = snapshot is not None and (snapshot[1].sequence, snapshot[1].time) == (engine.sequence, engine.time)
    result = ReplayResult(
        engine.sequence,
        rebuilt.index,
        time_text(rebuilt.clock),
        engine.state_hash.hex(),
        engine.full_hash().hex(),
        rebuilt.cut,
        f"snapshot at index {manifest.index}, sequence {manifest.sequence}" if manifest else "",
        manifest.full_hash == engine.full_hash() if manifest is not None and same_place else None,
    )
    if not freeze_clock:
        engine.apply(Batch(time.time_ns(), []))
    if as_json:
        print_json(result)
    else:
        click.echo(describe(result))
    if diff and snapshot is not None:
        for line in logs.differences(engine, snapshot[1]):
            click.echo(line)
    if result.agrees is False:
        raise click.exceptions.Exit(1)


def _snapshot(config: NodeConfig | None) -> tuple[Manifest, Engine] | None:
    if config is None:
        return None
    try:
        return newest_state(config)
    except NoSnapshotError:
        return None


def _base(log: logs.Txlog, snapshot: tuple[Manifest, Engine] | None, until: int | None) -> tuple[int, Engine] | None:
    """The snapshot, where the log does not reach back to its first entry and the snapshot is not too late."""
    if log.first_index == 1 or snapshot is None or (until is not None and snapshot[0].sequence > until):
        return None
    return snapshot[0].index, Engine.restore(dict(snapshot[1].tables()))


def describe(result: ReplayResult) -> str:
    """The result in a few lines."""
    lines = [
        f"command {result.sequence:,}, entry {result.index:,}, clock {result.clock}",
        f"state hash {result.state_hash}" + (" (within an entry: no node had it)" if result.within_entry else ""),
        f"full hash  {result.full_hash}",
        "every invariant holds",
    ]
    if result.agrees is not None:
        lines.append(f"{result.compared_with}: {'the same state' if result.agrees else 'ANOTHER STATE'}")
    elif result.compared_with:
        lines.append(f"not compared: the {result.compared_with} is of another command")
    return "\n".join(lines)
