"""`abi show | diff`, `migrate`, `rollback`: schemas, and data of other versions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

import click

from node.cli.output import ProgressBar, print_json, progress, show, table
from node.cli.program import Commands
from node.cli.target import CLUSTER_VARIABLE, default_place, deprecated, json_option
from node.config.settings import NodeConfig
from node.errors import DataDirectoryError, DirectoryError, HistoryError, SetupError
from node.migration import cutover
from node.migration.cutover import WayBack, ways_back
from node.migration.rehearsal import Column, NodeData, Rehearsal, TableDifference, places, rehearse
from node.records.txlog import to_lines
from node.system import files
from node.system.processes import ENGINE_PID_FILE, PID_FILE, PidFile, locked_note
from snapshots import migrations as written
from snapshots.abi import ABI, SCHEMA
from snapshots.abi.difference import difference
from snapshots.abi.releases import Releases
from snapshots.abi.schema import describe
from snapshots.levels import skeleton as level_skeleton
from snapshots.levels.level import rules_of
from snapshots.migration.chain import Chains
from snapshots.migration.skeleton import module_name, skeleton
from snapshots.tsv import title

DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)

data_option = click.option(
    "--cluster",
    "directory",
    type=DIRECTORY,
    envvar=CLUSTER_VARIABLE,
    show_envvar=True,
    help="The directory of a cluster or a node, or a data directory.",
)

LINES_SHOWN = 12
"""Lines of a table's changes that a rehearsal shows."""


@click.group(cls=Commands)
def abi() -> None:
    """The ABI: the checksum of everything that is stored or sent, and what it is made of."""


@abi.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all ABIs that this software knows, oldest first."""
    releases = Releases()
    if as_json:
        print_json([{"abi": known, "version": releases.versions.get(known, "")} for known in releases.abis])
        return
    for known in releases.abis:
        click.echo(releases.title(known) + (", that of this software" if known == ABI and known in releases.versions else ""))


@abi.command("show")
@click.argument("which", default=ABI)
@json_option
def show_(which: str, as_json: bool) -> None:
    """Print the description of an ABI (or the first digits of one). Default: this software's ABI.

    With --json the canonical form, whose SHA-1 is the ABI.
    """
    schema = Releases().schema(which)
    click.echo(schema.encode() if as_json else describe(schema), nl=False)


@abi.command()
@click.argument("old")
@click.argument("new", default=ABI)
@json_option
def diff(old: str, new: str, as_json: bool) -> None:
    """Show what changed from one ABI to another, and which changes need a migration.

    Exit code 1 if this software cannot take data from OLD to NEW: no migration was written, or the migration does not
    say why a value would disappear.
    """
    releases = Releases()
    source, target = releases.schema(old), releases.schema(new)
    changes = difference(source, target)
    rules = [rules_of(releases.versions.get(schema.abi, ""), schema.abi) for schema in (source, target)]
    if as_json:
        print_json({"changes": changes, "rules": rules})
    elif not changes:
        click.echo("no difference")
    else:
        rows = [("automatic" if change.automatic else "needs a migration", change.place, change.text) for change in changes]
        show(table(("data follows", "where", "change"), rows))
    if all(rules) and not as_json and source.abi != target.abi:
        same = rules[0] == rules[1]
        click.echo(
            f"rules: {rules[0]} in both" if same else f"rules: {rules[0]} to {rules[1]}: the same commands have other results"
        )
    if releases.abis.index(source.abi) < releases.abis.index(target.abi):
        Chains(releases).find(source.abi, target.abi)


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--check", is_flag=True, help="Rehearse on a copy: do what a start would do, and change nothing.")
@click.option("--finalize", is_flag=True, help="Delete the former data. No rollback is possible afterwards.")
@data_option
@click.option("--from", "earlier", type=DIRECTORY, hidden=True)
@click.option("--to", "target", help="The target ABI. Default: the ABI of the level to which a start brings the data.")
@click.option(
    "--diff",
    "with_diff",
    is_flag=True,
    help="Show what changes in each table, with rows as TSV. They contain the secrets of API keys.",
)
@json_option
@click.pass_context
def migrate(
    ctx: click.Context,
    check: bool,
    finalize: bool,
    directory: Path | None,
    earlier: Path | None,
    target: str | None,
    with_diff: bool,
    as_json: bool,
) -> None:
    """Data of another version: a start migrates it automatically. This command rehearses that, or makes it final.

    Exit code 1 if the migration would fail; the message names the check and the row.
    """
    if ctx.invoked_subcommand is not None:
        return
    if check == finalize:
        raise click.UsageError("expected --check or --finalize, or the subcommand new")
    directory = _place(directory, earlier, "--from")
    if finalize:
        _finalize(places(directory))
        return
    with progress("rehearsal") as bar:
        rehearsals = [_rehearse(place, target, bar, quiet=as_json) for place in places(directory)]
    if as_json:
        print_json([_as_json(each, with_diff) for each in rehearsals])
        return
    for each in rehearsals:
        _show(each, with_diff)


def _place(directory: Path | None, earlier: Path | None, name: str) -> Path:
    """Return the place that `--cluster` names, else the one that older versions took as argument, else the default."""
    if earlier is not None:
        deprecated(f"{name} {earlier}", f"--cluster {quote(str(earlier))}")
        return earlier
    if directory is None and not default_place().is_dir():
        raise click.UsageError("expected the data: name it with --cluster DIR")
    return directory or default_place()


def _rehearse(place: NodeData, target: str | None, shown: ProgressBar, *, quiet: bool) -> Rehearsal:
    """Rehearse on a copy of a node's data. Each stage is a line on stderr, unless `quiet`, and has a bar."""
    stage = ""

    def begins(line: str) -> None:
        nonlocal stage
        stage = f"{_name(place)}: {line}"
        shown.stage(stage)
        if not quiet:
            click.echo(line, err=True)

    return rehearse(place, target, progress=begins, counted=lambda done, total: shown.stage(stage, done, total))


@migrate.command()
@click.argument("source")
@click.option("--to", "target", default=ABI, help="Default: the ABI of this software.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The directory. Default: the package's migrations.")
def new(source: str, target: str, out: Path | None) -> None:
    """Write a draft of the migration from SOURCE: a function for each change that does not follow automatically."""
    releases = Releases()
    old, goal = releases.schema(source), releases.schema(target)
    path = (out or Path(written.__path__[0])) / module_name(old.abi)
    if path.exists():
        raise SetupError(f"{path} exists already; nothing was written")
    path.write_text(skeleton(old, goal), encoding="utf-8")
    click.echo(f"{path}: fill in what raises NotImplementedError, then rehearse it: quorumbook migrate --check --cluster DIR")


@migrate.command("new-level")
@click.argument("version")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The directory. Default: the package's levels.")
def new_level(version: str, out: Path | None) -> None:
    """Write a draft of the modules with which nodes of this version run at the level of the released VERSION."""
    releases = Releases()
    abi = next((abi for abi, name in releases.versions.items() if name == version), None)
    if abi is None:
        raise SetupError(f"VERSION: {version!r} was not released: expected one of {', '.join(releases.versions.values())}")
    directory = out or Path(level_skeleton.__file__).parent
    texts = {directory / name: text for name, text in level_skeleton.modules(version, releases.schema(abi), SCHEMA).items()}
    for path in texts:
        if path.exists():
            raise SetupError(f"{path} exists already; nothing was written")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        click.echo(str(path))
    click.echo("what is left to do: docs/migrations.md, What the author of a new version does")


def _finalize(found: list[NodeData]) -> None:
    for place in found:
        archived = place.config is not None and place.config.keeps_log
        number = cutover.finalize(place.data, keep_archive=archived or place.config is None)
        click.echo(f"{place.data}: {f'{number} migration(s) made final' if number else 'there is nothing to make final'}")


def _as_json(rehearsal: Rehearsal, with_diff: bool) -> dict[str, Any]:
    """Return the result of a rehearsal as JSON."""
    built = rehearsal.built
    result: dict[str, Any] = {"node_id": rehearsal.place.node_id, "source": rehearsal.found.abi, "target": rehearsal.target}
    if built is None:
        return {**result, "needed": False}
    result |= {"needed": True, "report": built.report, "snapshot_index": built.snapshot_index, "last_index": built.last_index}
    result |= {"commands_behind": built.behind, "rejected_behind": built.rejected, "state_hash": built.state_hash}
    result |= {"seconds": round(built.seconds, 3), "bytes_before": built.bytes_before, "bytes_needed": built.bytes_after}
    return result | ({"diff": list(rehearsal.differences())} if with_diff else {})


def _show(rehearsal: Rehearsal, with_diff: bool) -> None:
    """Print a rehearsal: its steps, checks, counts and, if asked for, the rows that differ."""
    built, titles = rehearsal.built, rehearsal.chains.releases.title
    name = rehearsal.place.node_id or str(rehearsal.place.data)
    if built is None:
        click.echo(
            f"{name}: nothing to migrate" + (f", the data has ABI {rehearsal.found.abi}" if rehearsal.found.abi else ", no data")
        )
        return
    click.echo(f"{name}: from {titles(built.report.source)}\n{' ' * len(name)}  to   {titles(built.report.target)}")
    for step in built.report.steps:
        click.echo(f"\nStep, {step.how}: {step.source[:12]} to {step.target[:12]}, {step.seconds:.2f} s")
        for change in step.changes:
            click.echo(f"  {change}")
        rows = [
            (
                each.table,
                each.new_table,
                f"{each.rows_in:,}",
                f"{each.rows_out:,}",
                "; ".join(f"{n} {why}" for why, n in each.reasons.items()),
            )
            for each in step.tables
        ]
        show(table(("table", "becomes", "rows in", "rows out", "why"), rows, right=("rows in", "rows out")))
    show(table(("passed", "compared"), [(each.name, each.detail) for each in built.report.checks], title="Checks"))
    click.echo(
        f"log: {built.report.entries:,} entries with {built.report.commands:,} commands converted, up to index {built.last_index:,}"
    )
    click.echo(
        f"after the snapshot at index {built.snapshot_index:,}: {built.behind:,} commands, {built.rejected:,} of them rejected"
    )
    click.echo(f"state hash at the end of the log: {built.state_hash.hex()[:16]}")
    for note in _unchecked(rehearsal):
        click.echo(note)
    click.echo(
        f"time {built.seconds:.1f} s; disk {_size(built.bytes_after)}, and the former {_size(built.bytes_before)} until they are finalized"
    )
    for each in rehearsal.differences() if with_diff else ():
        click.echo("\n" + "\n".join(_difference_lines(each)))


def _unchecked(rehearsal: Rehearsal) -> Iterator[str]:
    """Return what a rehearsal of this data cannot check."""
    built, data = rehearsal.built, rehearsal.place.data
    assert built is not None
    if not built.snapshot_index:
        yield (
            "not checked: there is no snapshot yet, so no stored rows were converted; the state was made from the converted log. To check "
            "the tables too, stop the node or run `quorumbook snapshot take`, and rehearse again"
        )
    if locked_note(data / ENGINE_PID_FILE):
        yield (
            "not checked: what the running node has written since this copy was read. A node that is stopped gracefully has no commands after "
            "its snapshot"
        )


def _difference_lines(found: TableDifference) -> Iterator[str]:
    """Return a table's differences as a limited number of lines."""
    becomes = f", becomes {title(found.becomes) or 'nothing'}" if found.table and found.becomes != found.table else ""
    yield f"# table = {title(found.table or found.becomes)}{becomes}{'' if found.table else ', added'}"
    yield f"# rows: {found.same:,} the same, {found.changed:,} changed, {found.gone:,} removed, {found.came:,} added"
    for verb, columns in (("added", found.columns_added), ("removed", found.columns_removed)):
        for column in columns:
            yield f"# column {column.name} {verb}: {_values(column)}"
    for name, rows in found.columns_changed.items():
        yield f"# column {name} differs, rows: {rows:,}"
    yield from found.lines[:LINES_SHOWN]
    if len(found.lines) > LINES_SHOWN:
        yield f"# ... and {len(found.lines) - LINES_SHOWN:,} more lines, which --json has"


def _values(column: Column) -> str:
    """Return the values of a column in words."""
    if column.values == 1:
        return f"{column.samples[0] or 'empty'} in all {column.most:,} rows"
    if column.values == 0:
        return "no rows"
    return f"{column.values:,} different values, such as {', '.join(column.samples)}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


class Report(Protocol):
    """Reports what was done on a node: a line for a person, facts for a script."""

    def __call__(self, name: str, text: str, **facts: object) -> None: ...


@click.command()
@data_option
@click.argument("earlier", type=DIRECTORY, required=False, metavar="")
@click.option(
    "--export", "out", type=click.Path(path_type=Path), help="Directory for the undone commands: a transaction log for each node."
)
@click.option(
    "--without-export", is_flag=True, help="Do not export them: another node has exported them, or they are not needed."
)
@click.option("--without-secrets", is_flag=True, help="Leave the secrets of API keys out of the export.")
@click.option(
    "--without-history",
    is_flag=True,
    help="Leave unreachable market databases as they are. The earlier version cannot use them: they must be made again.",
)
@json_option
def rollback(
    directory: Path | None,
    earlier: Path | None,
    out: Path | None,
    without_export: bool,
    without_secrets: bool,
    without_history: bool,
    as_json: bool,
) -> None:
    """Return to the data from before the latest migration; then start the version that wrote it.

    This undoes every command that was applied since, including acknowledged ones: clients know orders and trades that
    then never happened. They are exported first. Market databases are cut back to the same place. Stop all nodes of the
    cluster, and roll back all of them. After an interruption repeat the command.
    """
    if (out is None) == (not without_export):
        raise click.UsageError("expected --export DIR or --without-export")
    directory = _place(directory, earlier, "the argument")
    done: dict[str, dict[str, object]] = {}

    def report(name: str, text: str, **facts: object) -> None:
        done.setdefault(name, {"back": False}).update(facts)
        if not as_json:
            click.echo(f"{name}: {text}")

    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(progress("the way back is looked for"))
        node_places = places(directory)
        for place in node_places:
            stack.callback(PidFile.acquire(place.data / PID_FILE).release)
        names = {place.data: _name(place) for place in node_places}
        ways = ways_back(list(names))
        for data, name in names.items():
            if data not in ways:
                report(name, "already has the former ABI", back=True)
        if out is not None:
            exported = [(place, ways[place.data]) for place in node_places if place.data in ways]
            _export_all(exported, out, report, bar, secrets=not without_secrets)
        if not without_history:
            cut = [(place.config, ways[place.data]) for place in node_places if place.data in ways and place.config is not None]
            _cut_histories(cut, report, bar)
        for number, (data, way) in enumerate(ways.items()):
            bar.stage(f"{names[data]}: the former data takes its place again", number, len(ways))
            cutover.go_back(data, way.record)
            text = f"back at ABI {way.record.from_abi}, log up to index {way.record.last_index:,}"
            report(names[data], text, back=True, abi=way.record.from_abi, log_index=way.record.last_index)
    if as_json:
        print_json(done)


def _cut_histories(ways: list[tuple[NodeConfig, WayBack]], report: Report, bar: ProgressBar) -> None:
    """Cut histories back before any data goes back, because the earlier version must continue from an earlier place.

    Raises:
        HistoryError: a database cannot be used.
    """
    with_history = [(config, way) for config, way in ways if config.history.enabled]
    if not with_history:
        return
    from sqlalchemy.exc import SQLAlchemyError  # the import takes a moment that other commands should not pay for

    from node.history.cutting import go_back

    for number, (config, way) in enumerate(with_history):
        bar.stage(f"{config.node_id}: the market database is cut back", number, len(with_history))
        try:
            done = go_back(config, way.record)
        except SQLAlchemyError as error:
            raise HistoryError(
                f"{config.node_id}: its market database cannot be used: {str(error).splitlines()[0]}. No data was rolled back: start the "
                "database, or leave it with --without-history"
            ) from error
        if done:
            report(config.node_id, f"market database: {done}", history=done)


def _name(place: NodeData) -> str:
    return place.node_id or str(place.data)


def _export_all(ways: list[tuple[NodeData, WayBack]], out: Path, report: Report, shown: ProgressBar, *, secrets: bool) -> None:
    """Export from the nodes; one that has everything is enough.

    Raises:
        DataDirectoryError: none has.
    """
    gaps: list[DataDirectoryError] = []
    for number, (place, way) in enumerate(ways):
        shown.stage(f"{_name(place)}: the undone commands are exported", number, len(ways))
        try:
            path, count = _export(place, way, out, secrets)
            text = f"{count:,} commands applied since the migration are in {path}"
            report(_name(place), text, export=str(path), commands=count)
        except DataDirectoryError as error:
            gaps.append(error)
    if len(gaps) == len(ways):
        raise gaps[0]
    for gap in gaps:
        click.echo(str(gap), err=True)


def _export(place: NodeData, way: WayBack, out: Path, secrets: bool) -> tuple[Path, int]:
    """Write the commands that a rollback undoes. Returns the file and their number."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = out / f"{place.node_id or 'node'}-since-migration.jsonl"
    if path.exists():
        raise DirectoryError(f"{path} exists already, and nothing was undone; name another directory")
    files.write_lines(path, to_lines(way.txlog(), secrets=secrets))
    return path, sum(len(entry.batch.commands) for entry in way.since())
