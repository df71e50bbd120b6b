"""`txlog export | import | show | replay`: the commands of a cluster, and the state at any of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import click
import msgspec

from node.cli.output import duration, instant, plain, print_json, progress, show, table
from node.cli.program import Commands
from node.cli.records import node_config_path
from node.cli.target import Target, deprecated, json_option, place_option
from node.config.file import load
from node.config.settings import NodeConfig
from node.records import txlog as logs
from node.records.exporting import newest_state
from node.records.txlog import Txlog
from node.system import files
from snapshots.errors import NoSnapshotError
from snapshots.levels.states import restored
from snapshots.manifest import Manifest
from snapshots.tsv_values import UNITS, Scales, Unit, ValueFault, time_text
from statemachine.commands import AnyCommand, Batch, PutCurrency, PutProduct
from statemachine.decimals import to_text
from statemachine.engine import Engine
from statemachine.limits import PPM_DIGITS, SECOND_NS

SOURCE = click.Path(path_type=Path, exists=True)
node_option = click.option("--node", "node_id", help="The node whose log to use. Default: the first.")
log_argument = click.argument("source", metavar="[FILE]", type=SOURCE, required=False)


@click.group("txlog", cls=Commands)
def txlog() -> None:
    """Transaction logs: of a node of the cluster, or from a FILE that `txlog export` wrote."""


def _open_log(target: Target, node_id: str | None, source: Path | None) -> tuple[logs.Txlog, NodeConfig | None]:
    """Return the log in the file `source`, or a node's log. `source` may also be a directory, as in older versions."""
    if source is not None and source.is_file():
        return logs.of_file(source), None
    if source is not None:
        deprecated(f"the directory {source} as an argument", f"--cluster {quote(str(source))}")
    else:
        source = target.directory
    config = load(node_config_path(source, node_id))
    return logs.of_node(config), config


@txlog.command("export")
@click.argument("paths", metavar="[FILE]", type=click.Path(path_type=Path, allow_dash=True), nargs=-1)
@place_option
@node_option
@click.option("--without-secrets", is_flag=True, help="Leave out the secrets of API keys. Hashes will differ then.")
def export_log(paths: tuple[Path, ...], target: Target, node_id: str | None, without_secrets: bool) -> None:
    """Write the log into the new FILE (default: the standard output) as JSON lines, an entry a line.

    The log of a running node may end with uncommitted entries.
    """
    source = paths[0] if paths and (len(paths) > 1 or paths[0].is_dir()) else None
    rest = paths[1:] if source is not None else paths
    if len(rest) > 1:
        raise click.UsageError("Expected one FILE.")
    destination = rest[0] if rest else Path("-")
    lines = logs.to_lines(_open_log(target, node_id, source)[0], secrets=not without_secrets)
    if str(destination) == "-":
        for line in lines:
            click.echo(line)
        return
    with progress(f"{destination} is written"):
        files.write_lines(destination, lines)
    click.echo(f"{destination} is written")


@txlog.command("import")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("destination", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@json_option
def import_log(source: Path, destination: Path, as_json: bool) -> None:
    """Write JSON lines back as log segments, into the new directory DIR."""
    with progress(f"{destination} is written"):
        entries = logs.write_log(destination, logs.of_file(source))
    if as_json:
        print_json({"entries": entries, "directory": str(destination)})
    else:
        click.echo(f"{entries:,} entries in {destination}")


@txlog.command("show")
@log_argument
@place_option
@node_option
@click.option("--from", "first", type=click.IntRange(min=0), default=0, help="First index.")
@click.option("--to", "last", type=click.IntRange(min=0), help="Last index.")
@json_option
def show_log(source: Path | None, target: Target, node_id: str | None, first: int, last: int | None, as_json: bool) -> None:
    """Print the commands for a person, without the secrets of API keys.

    Amounts are decimals if the log, from its first entry, or the node's newest snapshot has the currencies' digits.
    """
    log, config = _open_log(target, node_id, source)
    rows = list(_views(config).rows(log, first, last))
    if as_json:
        print_json(rows)
        return
    columns = ("index", "term", "time", "command", "account", "id", "what")
    show(table(columns, [[row[name] for name in columns] for row in rows], right=("index", "term")))


def _views(config: NodeConfig | None) -> LogViews:
    """Return views for a node's log, with the digits in its newest snapshot."""
    snapshot = _snapshot(config)
    if snapshot is None:
        return LogViews({}, {})
    engine = snapshot[1]
    return LogViews(
        {row.currency: row.scale for row in engine.currencies()},
        {row.product_id: (row.base, row.quote) for row in engine.products()},
    )


class ReplayResult(msgspec.Struct, frozen=True):
    """The result of `txlog replay`. `agrees`: whether the state equals the node's snapshot at the same command;
    None without such a snapshot.
    """

    sequence: int
    index: int
    clock: str
    state_hash: str
    full_hash: str
    within_entry: bool
    compared_with: str
    agrees: bool | None


@txlog.command("replay")
@log_argument
@place_option
@node_option
@click.option("--until", type=click.IntRange(min=0), help="Number of the last command to apply. Default: all.")
@click.option(
    "--freeze-clock", is_flag=True, help="Keep the exchange's clock at that command. By default it advances to the present."
)
@click.option("--diff", is_flag=True, help="Show the rows that differ from the node's newest snapshot.")
@json_option
def replay_log(
    source: Path | None, target: Target, node_id: str | None, until: int | None, freeze_clock: bool, diff: bool, as_json: bool
) -> None:
    """Build the state at a command from the log alone, check it, and compare its hash with the node's snapshot.

    Exit code 1 if they differ.
    """
    log, config = _open_log(target, node_id, source)
    with progress("the log is applied", None) as bar:
        snapshot = _snapshot(config)
        last = until if until is not None else snapshot[1].sequence if snapshot is not None else None

        def show(sequence: int) -> None:
            bar.at(sequence, max(sequence, last) if last is not None else None)

        rebuilt = logs.rebuild(log, until, base=_base(log, snapshot, until), progress=show)
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
    lines = list(logs.differences(engine, snapshot[1])) if diff and snapshot is not None else []
    if as_json:
        print_json({**msgspec.structs.asdict(result), "differences": lines} if diff else result)
    else:
        click.echo("\n".join([describe(result), *lines]))
    if result.agrees is False:
        raise click.exceptions.Exit(1)


def _snapshot(config: NodeConfig | None) -> tuple[Manifest, Engine] | None:
    """Return the newest snapshot of a node and its state, or None."""
    if config is None:
        return None
    try:
        return newest_state(config)
    except NoSnapshotError:
        return None


def _base(log: logs.Txlog, snapshot: tuple[Manifest, Engine] | None, until: int | None) -> tuple[int, Engine] | None:
    """Return the snapshot to begin with, if the log does not reach back to its first entry and the snapshot is not too
    late.
    """
    if log.first_index == 1 or snapshot is None or (until is not None and snapshot[0].sequence > until):
        return None
    return snapshot[0].index, restored(snapshot[0].abi, dict(snapshot[1].tables()))


def describe(result: ReplayResult) -> str:
    """Return the result as a few lines."""
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


NOT_SHOWN = ("account_id", "command_id", "secret", "passphrase")


class LogViews:
    """Turns entries into rows. Currencies and products that the log defines apply to the following entries.

    Args:
        currencies: decimal digits by name, as far as they are known before.
        products: base and quote currency by product id, likewise.
    """

    def __init__(self, currencies: dict[str, int], products: dict[str, tuple[str, str]]) -> None:
        self._currencies = dict(currencies)
        self._products = dict(products)
        self._scales = Scales(self._currencies, self._products)

    def rows(self, log: Txlog, first: int, last: int | None) -> Iterator[dict[str, str]]:
        """Yield the commands of the entries from index `first` to `last`, a row for each."""
        for entry in log.entries:
            if last is not None and entry.index > last:
                return
            for command in entry.batch.commands:
                self._learn(command)
            if entry.index < first:
                continue
            head = {"index": str(entry.index), "term": str(entry.term), "time": instant(entry.batch.time)}
            if not entry.batch.commands:
                yield {**head, "command": "-", "account": "", "id": "", "what": "time passes: orders may expire"}
            for command in entry.batch.commands:
                named = {"command": type(command).__name__, "account": command.account_id, "id": command.command_id}
                yield {**head, **named, "what": self.fields_text(command)}

    def fields_text(self, command: AnyCommand) -> str:
        """Return the fields of a command that have a value, as `name=value`."""
        fields = plain(command)
        assert isinstance(fields, dict)
        pairs = ((name, value) for name, value in fields.items() if name not in NOT_SHOWN and value not in ("", 0))
        return " ".join(f"{name}={self._value(name, value, fields)}" for name, value in pairs)

    def _value(self, name: str, value: object, fields: dict[str, object]) -> object:
        """Return a value of a command for a person."""
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if name.endswith("_fee_ppm"):
            return to_text(value, PPM_DIGITS)
        if name == "cancel_after":
            return f"{value / SECOND_NS:g} s" if value < 60 * SECOND_NS else duration(value / SECOND_NS).replace(" ", "")
        unit = UNITS.get(name)
        if unit is Unit.TIME:
            return time_text(value)
        if unit is None or unit is Unit.PERMISSIONS:
            return value
        try:
            return to_text(value, self._scales.of(unit, fields))
        except ValueFault:
            return f"{value} smallest units"

    def _learn(self, command: msgspec.Struct) -> None:
        """Learn the scales of a currency or product from its command."""
        if isinstance(command, PutCurrency):
            self._currencies[command.currency] = command.scale
        elif isinstance(command, PutProduct):
            self._products[command.product_id] = (command.base, command.quote)
